"""What tasks share whose result is class probabilities: of pictures, and of slides."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from domainvl.adapters.base import Adapter
from domainvl.backbones.base import Backbone
from domainvl.evaluation import Predictions, headline
from domainvl.evaluation.outcome import Classified, Outcome
from domainvl.features import Batch, Features
from domainvl.objectives.base import Objective
from domainvl.speed import FAST, Speed
from domainvl.tasks.rows import Rows, array
from domainvl.tasks.schedule import Schedule
from domainvl.tasks.scoring import Scoring
from domainvl.tasks.selection import accuracy, mean_auroc


class Labelling(Scoring):
    """Base of tasks that give class probabilities.

    After `trainer.validate`, `test` or `predict`, `predictions` holds what the model said.

    Args:
        backbone: See `Task`, as for all that follow.
        adapter: What is learned.
        objectives: Losses by name.
        optimizer: Class and arguments of the optimiser.
        schedule: How the learning rate moves.
        speed: What may be skipped.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter | None = None,
        objectives: Mapping[str, Objective | None] | None = None,
        optimizer: OptimizerCallable | None = None,
        schedule: Schedule | None = None,
        speed: Speed = FAST,
    ) -> None:
        super().__init__(backbone, adapter, objectives, optimizer, schedule, speed)
        self.predictions: Predictions | None = None

    @abstractmethod
    def scored(self, batch: Batch) -> Features:
        """Everything that an evaluation reads: `frozen/image.logits` of the untouched model, and `image.logits`."""

    @abstractmethod
    def _supporting(self, adapter: Adapter, batch: Batch) -> Tensor:
        """What `Adapter.take_support` is given of a batch, `[B, D]`."""

    @abstractmethod
    def _choosing(self, adapter: Adapter, batch: Batch) -> Features:
        """What `Adapter.choose` is given of a batch, class features apart."""

    # Set-up

    def _show_support(self) -> None:
        """Show the adapter the frozen features of the training images, if it wants to see them."""
        if self.adapter is None or not self.adapter.support_views or self._saved is not None:
            return
        views: list[Tensor] = []
        targets: list[Tensor] = []
        device = self.trainer.strategy.root_device
        with torch.no_grad(), self.adapter.off():
            for view in range(self.adapter.support_views):
                rows = []
                for batch in self.trainer.datamodule.support_batches(view, device):  # type: ignore[attr-defined]
                    rows.append(self._supporting(self.adapter, batch))
                    if view == 0:
                        targets.append(self._targets(batch))
                views.append(torch.cat(rows))
        self.adapter.take_support(torch.stack(views), torch.cat(targets))

    def _targets(self, batch: Batch) -> Tensor:
        """Which prompts are true of an image, `[B, C]` (`[B, 2C]` in multi-label data)."""
        label = batch["label"]
        if not self.multilabel:
            return torch.nn.functional.one_hot(label, len(self.classes)).float()
        yes, valid = label == 1, batch["valid"]
        return torch.cat([yes & valid, ~yes & valid], dim=-1).float()

    def choose_on_validation(self) -> None:
        """See `Task.choose_on_validation`: by accuracy, in multi-label data by the mean area under the ROC curve."""
        if self.adapter is None:
            return
        device = self.backbone.logit_scale.device
        rows: list[Features] = []
        labels, valid = [], []
        self.eval()
        with torch.no_grad():
            shared = self._scores.features()
            for batch in self.trainer.datamodule.validation_batches(device):  # type: ignore[attr-defined]
                rows.append(self._choosing(self.adapter, batch))
                labels.append(batch["label"])
                valid.append(batch["valid"] if self.multilabel else torch.ones_like(batch["label"], dtype=torch.bool))
            label, known = torch.cat(labels), torch.cat(valid)
            features = {key: torch.cat([row[key] for row in rows]) for key in rows[0]} | shared

            def measure(scores: Tensor) -> float:
                decided = self._scores.decision(scores)
                return mean_auroc(decided, label == 1, known) if self.multilabel else accuracy(decided, label)

            self.adapter.choose(features, self.backbone.scale(), measure)
        self.train()

    # Evaluation

    def on_validation_epoch_start(self) -> None:
        """See `Scoring.on_validation_epoch_start`; what was predicted before is forgotten."""
        super().on_validation_epoch_start()
        self.predictions = None

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Score a batch with both models."""
        features = self.scored(batch)
        row: dict[str, Any] = {"id": batch["id"], "patient": batch["patient"], "index": array(batch["index"])}
        row["zero_shot"] = array(self._scores.probability(features["frozen/image.logits"]))
        if self.adapter is not None:
            row["adapted"] = array(self._scores.probability(features["image.logits"]))
        for key in ("label", "valid"):
            if key in batch:
                row[key] = array(batch[key])
        row |= self._besides(batch, features)
        self._rows.append(row)
        return row

    def _besides(self, batch: Batch, features: Features) -> dict[str, Any]:
        """More arrays `[B, ...]` to keep of an evaluation batch."""
        return {}

    def _collect(self) -> None:
        rows = Rows(self._rows)
        if rows:
            self._take(rows)

    def _take(self, rows: Rows) -> None:
        """Keep what the rows of an evaluation say."""
        self.predictions = rows.predictions(self.classes, self.multilabel)

    def _headline(self) -> Mapping[str, float]:
        return {} if self.predictions is None else headline(self.predictions)

    def outcome(self) -> Outcome:
        """Class probabilities of the last evaluation."""
        return super().outcome() if self.predictions is None else Classified(self.predictions)
