"""What tasks share that score class names, and evaluate both models on them epoch by epoch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from domainvl.adapters.base import Adapter
from domainvl.backbones.base import Backbone
from domainvl.features import Batch, Features
from domainvl.objectives.base import Objective
from domainvl.speed import FAST, Speed
from domainvl.tasks.base import Task
from domainvl.tasks.class_scores import ClassScores
from domainvl.tasks.schedule import Schedule


class Scoring(Task):
    """Base of tasks that score class names.

    Args:
        backbone: See `Task`, as for all that follow.
        adapter: What is learned.
        objectives: Losses by name.
        optimizer: Class and arguments of the optimiser.
        schedule: How the learning rate moves.
        speed: What may be skipped.
    """

    shown: frozenset[str] = frozenset({"auroc_macro"})
    """What a line per epoch says of an evaluation."""

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
        self._rows: list[dict[str, Any]] = []
        self._evaluated: Features | None = None

    def _read_classes(self, data: Any) -> None:
        """Take classes and prompts from the data module, and attach the adapter."""
        self.classes: list[str] = list(data.classes)
        self.multilabel: bool = data.multilabel
        self.novel = self.novel_classes()
        # Lightning moves a task to its device after set-up, but not the class features that are made here.
        self.backbone.to(self.trainer.strategy.root_device)
        self._scores = ClassScores(self.classes, self.multilabel, data.prompts, self.backbone, self.speed)
        self.attach(self._scores.normalised)
        self._scores.take(self.adapter)

    def on_validation_epoch_start(self) -> None:
        """Class features change with every step: compute them once per evaluation and forget them afterwards."""
        self._rows = []
        self._evaluated = self._scores.features()

    def on_test_epoch_start(self) -> None:
        """See `on_validation_epoch_start`."""
        self.on_validation_epoch_start()

    def on_predict_epoch_start(self) -> None:
        """See `on_validation_epoch_start`."""
        self.on_validation_epoch_start()

    @abstractmethod
    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Keep what both models say of a batch, in `_rows`, and return it."""

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """See `validation_step`."""
        return self.validation_step(batch, batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """See `validation_step`."""
        return self.validation_step(batch, batch_idx)

    def forget(self) -> None:
        """Drop the scores so far, for whoever takes them batch by batch."""
        self._rows.clear()

    def on_validation_epoch_end(self) -> None:
        """Log the headline numbers."""
        self._gathered()
        stage = "test" if self.trainer.testing else "val"
        for name, value in self._headline().items():
            self.log(f"{stage}/{name}", value, prog_bar=name in self.shown, rank_zero_only=True)

    def on_test_epoch_end(self) -> None:
        """See `on_validation_epoch_end`."""
        self.on_validation_epoch_end()

    def on_predict_epoch_end(self) -> None:
        """Keep what was predicted."""
        self._gathered()

    def _gathered(self) -> None:
        self._collect()
        self._rows, self._evaluated = [], None

    @abstractmethod
    def _collect(self) -> None:
        """Put the rows of all processes together."""

    @abstractmethod
    def _headline(self) -> Mapping[str, float]:
        """Numbers of the evaluation that was collected last; nothing where there are none."""
