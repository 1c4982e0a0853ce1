"""What happens around training: checkpoints, lines per epoch, results."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from domainvl.console.facts import Facts
from domainvl.console.log import CsvLog
from domainvl.console.quiet import quieten
from domainvl.console.signals import hold, release
from domainvl.data.module import DataModule
from domainvl.runs import Run


class LastCheckpoint(Checkpoint):
    """`checkpoints/last.ckpt` after every epoch, written whole or not at all.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._resumed = False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember that this run goes on."""
        self._resumed = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the log."""
        for logger in trainer.loggers:
            if isinstance(logger, CsvLog) and self._resumed:
                logger.resume(trainer.global_step)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the log of the epochs before; Lightning logs an epoch after the hook that ends it."""
        for logger in trainer.loggers:
            logger.save()
        release()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same for the last epoch."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save. A signal waits until the log has this epoch too, or a resumed run would lack its row."""
        hold()
        draft = self.path.with_name(f".{self.path.name}.tmp")
        trainer.save_checkpoint(draft, weights_only=False)
        if trainer.is_global_zero:
            os.replace(draft, self.path)


class EpochLines(Callback):
    """One line per epoch: losses, validation numbers, seconds."""

    def __init__(self) -> None:
        self._began = 0.0
        self._validated = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Be quiet in spawned processes too; filters are not inherited."""
        quieten()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what is trained."""
        if trainer.is_global_zero:
            sizes = [parameter.numel() for parameter in pl_module.parameters()]
            trained = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
            print(f"training {trained:,} of {sum(sizes):,} parameters on {trainer.strategy.root_device}", flush=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the clock."""
        self._began, self._validated = time.monotonic(), False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation numbers are fresh."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line."""
        if not trainer.is_global_zero:
            return
        # What tasks log with prog_bar=True; the rest is in log.csv.
        shown = [
            f"{name} {float(value):.4g}"
            for name, value in trainer.progress_bar_metrics.items()
            if name.startswith("train/") or self._validated
        ]
        last = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
        seconds = f"{time.monotonic() - self._began:.1f} s"
        print("  ".join([f"epoch {trainer.current_epoch + 1}/{last}", *shown, seconds]), flush=True)


class Results(Callback):
    """Writes what a finished evaluation says into the run folder.

    It is a callback because under ddp_spawn the numbers exist only in the processes that made them.

    Args:
        run: Where to.
        seed: Of the run.
        stage: The stage whose result counts: test, validate or predict.
        recipe: The resolved recipe, in YAML.
        facts: What it was made on, written beside.
        save_adapter: Whether the adapter was trained here and is written.
    """

    def __init__(
        self, run: Run, *, seed: int, stage: str, recipe: str, facts: Facts, save_adapter: bool = False
    ) -> None:
        self.run = run
        self.facts = facts
        self.seed = seed
        self.stage = stage
        self.recipe = recipe
        self.save_adapter = save_adapter

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the result of `test`."""
        self._measured(trainer, pl_module, "test")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the result of `validate`; not of the validations while training."""
        if trainer.state.fn == "validate":
            self._measured(trainer, pl_module, "validate")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write predictions without numbers."""
        if trainer.is_global_zero and self.stage == "predict":
            task: Any = pl_module
            task.outcome().write(self.run.predictions)
            self._rejects(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep the list of bad rows when a run is interrupted or fails."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        empty = len(getattr(data, "rejects", ())) == 0
        # A run that was refused before it began leaves nothing behind.
        if trainer.is_global_zero and not (empty and isinstance(exception, Exception)):
            self._rejects(trainer)

    def _measured(self, trainer: Trainer, module: LightningModule, split: str) -> None:
        if not trainer.is_global_zero or split != self.stage:
            return
        from domainvl.evaluation import write_metrics
        from domainvl.report import has_page, write_report

        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        task: Any = module
        outcome = task.outcome()
        measured = outcome.measure(self.seed)
        outcome.write(self.run.predictions)
        self._rejects(trainer)
        hashes = {**data.hashes(), **task.hashes()}
        draft = self.run.metrics.with_name(".metrics.json.tmp")
        facts = task.adapter.facts() if task.adapter is not None else {}
        apart = data.split_facts() if isinstance(data, DataModule) else {}
        extra = {name: dict(found) for name, found in (("adapter", facts), ("split_facts", apart)) if found}
        write_metrics(draft, measured, split=split, hashes=hashes, seed=self.seed, extra=extra)
        if self.save_adapter and task.adapter is not None:
            self._save_adapter(task, data, draft)
        numbers = measured.as_dict()
        self.facts.write(trainer, leakage="leakage" not in numbers)
        os.replace(draft, self.run.metrics)  # last of all: a run that has its numbers is finished
        outcome.show(measured)
        if has_page(numbers):
            write_report(self.run.folder)
        sys.stdout.flush()

    def _save_adapter(self, task: Any, data: Any, metrics: Path) -> None:
        from domainvl.hub import described, save_adapter

        scale = task.backbone.logit_scale
        save_adapter(
            self.run.adapter,
            task.adapter,
            backbone=task.backbone.spec(),
            classes=task.classes,
            multilabel=task.multilabel,
            prompts=asdict(data.prompts),
            recipe=self.recipe,
            metrics=json.loads(metrics.read_text(encoding="utf-8")),
            logit_scale=scale if scale.requires_grad else None,
            model=described(task.backbone),
            preparation=data.preparation_facts(),
        )

    def _rejects(self, trainer: Trainer) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        rejects = getattr(data, "rejects", None)
        if rejects is not None:
            rejects.write(self.run.rejects)
