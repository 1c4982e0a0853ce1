"""Few-shot and zero-shot image classification, with classes that exclude each other or findings that co-occur."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from domainvl.adapters.base import Adapter
from domainvl.backbones.base import Backbone
from domainvl.data.bank import PromptBank
from domainvl.evaluation import Predictions, headline
from domainvl.evaluation.outcome import Classified, Outcome
from domainvl.features import Batch, Features
from domainvl.objectives.base import Objective
from domainvl.speed import FAST, Speed
from domainvl.tasks.base import Task
from domainvl.tasks.class_scores import PLAIN_ADAPTER, ClassScores
from domainvl.tasks.image_pass import CachedPass, ImagePass, Seen
from domainvl.tasks.rows import Rows, array
from domainvl.tasks.schedule import Schedule
from domainvl.tasks.selection import accuracy, mean_auroc

_BANK_ROWS = 256
"""Sentences of a bank that go through the text tower at once."""


class Classification(Task):
    """Image classification against class names.

    Multi-label findings are decided by two prompts each: `p = sigmoid(s cos(f, yes) - s cos(f, no))`, the two-prompt
    softmax with the model's own scale. Zero-shot scores are computed beside the adapted ones in every evaluation.

    After `trainer.validate`, `test` or `predict`, `predictions` holds what the model said.

    Args:
        backbone: The pretrained model.
        adapter: What is learned; None for zero-shot.
        objectives: Losses by name; None, or weight 0, switches one of a `base:` recipe off.
        optimizer: Class and arguments of the optimiser; needed to train.
        schedule: How the learning rate moves; constant when None.
        speed: What may be skipped; everything that leaves the numbers as they are.
        bank: A file with many sentences about each class (`domainvl.data.bank`), or `builtin:chest-findings`, for
            objectives that want them.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter | None = None,
        objectives: dict[str, Objective | None] | None = None,
        optimizer: OptimizerCallable | None = None,
        schedule: Schedule | None = None,
        speed: Speed = FAST,
        bank: str | None = None,
    ) -> None:
        super().__init__(backbone, adapter, objectives, optimizer, schedule, speed)
        self.bank = None if bank is None else PromptBank.read(bank)
        self._bank_features: Tensor | None = None
        self.predictions: Predictions | None = None
        self._rows: list[dict[str, Any]] = []
        self._evaluated: Features | None = None

    # Set-up

    def setup(self, stage: str) -> None:
        """Read the classes from the data module, attach the adapter, check the objectives."""
        if self._attached:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.classes: list[str] = list(data.classes)
        self.multilabel: bool = data.multilabel
        self.novel = self.novel_classes()
        # Lightning moves a task to its device after this hook, but not the class features that are made here.
        device = self.trainer.strategy.root_device
        self.backbone.to(device)
        self._scores = ClassScores(self.classes, self.multilabel, data.prompts, self.backbone, self.speed)
        self.attach(self._scores.normalised)
        self._scores.take(self.adapter)
        self._image = ImagePass(self.backbone, self.adapter or PLAIN_ADAPTER, self.speed)
        self._cached: CachedPass | None = None
        if stage == "fit":
            self._show_support()
            if self.bank is not None:
                self._bank_features = self._read_bank(self.bank)
            self.attach_objectives(self._offered())
            self._remember(data)

    def hashes(self) -> dict[str, str]:
        """See `Task.hashes`."""
        return super().hashes() | ({} if self.bank is None else {"bank": self.bank.digest})

    @torch.no_grad()
    def _read_bank(self, bank: PromptBank) -> Tensor:
        """What the untouched model makes of every sentence, `[C, N, D]` (`[2C, N, D]` in multi-label data)."""
        groups = bank.texts(self.classes)
        if self.multilabel:
            groups += bank.texts(self.classes, negative=True)
        rows = [text for group in groups for text in group]
        features = []
        for start in range(0, len(rows), _BANK_ROWS):
            inputs = self.backbone.tokenize(rows[start : start + _BANK_ROWS]).to(self.backbone.logit_scale.device)
            features.append(PLAIN_ADAPTER.encode("text", self.backbone.text, inputs, self.speed)["text.pooled"])
        return torch.cat(features).unflatten(0, (len(groups), -1))

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
                    rows.append(self.adapter.see(self.backbone.image, batch["image"]))
                    if view == 0:
                        targets.append(self._targets(batch))
                views.append(torch.cat(rows))
        self.adapter.take_support(torch.stack(views), torch.cat(targets))

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
                rows.append(self.adapter.encode("image", self.backbone.image, batch["image"]))
                labels.append(batch["label"])
                valid.append(batch["valid"] if self.multilabel else torch.ones_like(batch["label"], dtype=torch.bool))
            label, known = torch.cat(labels), torch.cat(valid)
            features = {key: torch.cat([row[key] for row in rows]) for key in rows[0]} | shared

            def measure(scores: Tensor) -> float:
                decided = self._scores.decision(scores)
                return mean_auroc(decided, label == 1, known) if self.multilabel else accuracy(decided, label)

            self.adapter.choose(features, self.backbone.scale(), measure)
        self.train()

    def _targets(self, batch: Batch) -> Tensor:
        """Which prompts are true of an image, `[B, C]` (`[B, 2C]` in multi-label data)."""
        label = batch["label"]
        if not self.multilabel:
            return torch.nn.functional.one_hot(label, len(self.classes)).float()
        yes, valid = label == 1, batch["valid"]
        return torch.cat([yes & valid, ~yes & valid], dim=-1).float()

    def _offered(self) -> Features:
        """The features that a step makes, for one blank image."""
        with torch.no_grad():
            return self.features(self.backbone.blank(), frozen_image=True)

    def outcome(self) -> Outcome:
        """Class probabilities of the last evaluation."""
        return super().outcome() if self.predictions is None else Classified(self.predictions)

    def _needs_frozen_image(self) -> bool:
        """Whether an objective reads what the untouched model makes of an image."""
        return self.needs("frozen/image.pooled") or self.needs("frozen/image.logits")

    def _remember(self, data: Any) -> None:
        """Keep what the frozen image tower says about the training pictures, where these are finitely many."""
        pictures = data.pictures() if self.speed.cache and hasattr(data, "pictures") else None
        if pictures is not None:
            setting = f"{self.trainer.precision} {self.trainer.strategy.root_device.type}"
            self._cached = CachedPass(self._image, pictures, self._needs_frozen_image(), setting)

    # Features

    def features(
        self, image: Tensor, text: Features | None = None, frozen_image: bool = False, seen: Seen | None = None
    ) -> Features:
        """Everything that objectives and predictions read.

        Args:
            image: Normalised pixels, `[B, 3, S, S]`.
            text: Class features of the adapted model; computed when None.
            frozen_image: Whether the untouched model's image features are wanted too.
            seen: What the frozen image tower says about `image`; computed when None.
        """
        adapter, tower = self.adapter or PLAIN_ADAPTER, self.backbone.image
        seen = seen or self._image(image, frozen_image)
        features = adapter.finish("image", tower, seen.prefix, self.speed)
        if adapter.text_per_image:
            features["text.pooled"] = self._scores.of_images(features["image.pooled"])
        else:
            features |= self._scores.features() if text is None else text
        if seen.frozen is not None:
            features["frozen/image.pooled"] = seen.frozen
            features["frozen/image.logits"] = self._scores.zero_shot(seen.frozen)
        features["frozen/text.pooled"] = self._scores.frozen
        if self._bank_features is not None:
            features["frozen/text@bank.tokens"] = self._bank_features
        return features | self._scores.scores(features, novel=self.novel)

    # Steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """One optimiser step's loss; None where nothing is learned (a cache of training images)."""
        if not self.trained_parameters():
            return None
        image = batch["image"]
        seen = None if self._cached is None else self._cached(image, batch["index"], batch["view"])
        features = self.features(image, frozen_image=self._needs_frozen_image(), seen=seen)
        return self.total_loss(features, batch)

    def on_validation_epoch_start(self) -> None:
        """Class features change with every step: compute them once per evaluation and forget them afterwards."""
        self._rows, self.predictions = [], None
        self._evaluated = self._scores.features()

    on_test_epoch_start = on_validation_epoch_start
    on_predict_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Score a batch with both models."""
        features = self.features(batch["image"], text=self._evaluated, frozen_image=True)
        row: dict[str, Any] = {"id": batch["id"], "patient": batch["patient"], "index": array(batch["index"])}
        row["zero_shot"] = array(self._scores.probability(features["frozen/image.logits"]))
        if self.adapter is not None:
            row["adapted"] = array(self._scores.probability(features["image.logits"]))
        for key in ("label", "valid"):
            if key in batch:
                row[key] = array(batch[key])
        self._rows.append(row)
        return row

    def forget(self) -> None:
        """Drop the scores so far, for whoever takes them batch by batch."""
        self._rows.clear()

    test_step = validation_step
    predict_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log the headline numbers."""
        self._collect()
        if self.predictions is None:
            return
        stage = "test" if self.trainer.testing else "val"
        for name, value in headline(self.predictions).items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "auroc_macro", rank_zero_only=True)

    on_test_epoch_end = on_validation_epoch_end

    def on_predict_epoch_end(self) -> None:
        """Keep what was predicted."""
        self._collect()

    def _collect(self) -> None:
        """Put the batches of all processes together."""
        rows = Rows(self._rows)
        self._rows, self._evaluated = [], None
        self.predictions = rows.predictions(self.classes, self.multilabel) if rows else None
