"""The heavy half of `validate`, `test` and `predict`."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule

from domainvl.console.arguments import Arguments
from domainvl.console.callbacks import Results
from domainvl.console.facts import Facts
from domainvl.console.session import Session, clear_errors, make_trainer, open_session
from domainvl.console.signals import Interrupted, interruptible
from domainvl.errors import CommandError
from domainvl.runs import Run, claim


def infer(verb: str, arguments: Arguments, recipe: dict[str, Any]) -> int:
    """Check the recipe, then run one pass over a split or a folder.

    Args:
        verb: validate, test or predict.
        arguments: The command line.
        recipe: The merged recipe.
    """
    session = open_session(verb, arguments, recipe)
    if session is None:
        return 0
    session.without("adapter", "objectives", "optimizer", "schedule")
    run = claim(arguments.option("--run-dir"), arguments.recipes[0])
    try:
        with clear_errors(), interruptible(), _folder(arguments.option("--images")) as images:
            return _infer(verb, session, run, arguments.option("--adapter"), images)
    except Interrupted as stop:
        run.discard_if_unused()
        print(f"\nstopped by {stop}", file=sys.stderr, flush=True)
        return stop.status
    except BaseException:
        run.discard_if_unused()
        raise


def _infer(verb: str, session: Session, run: Run, adapter: str | None, images: Path | None) -> int:
    if images is not None:
        session.set_data("predict_folder", str(images), "--images")
    module, data, settings = session.build()
    if adapter is not None:
        adopt(adapter, module, data, unlabelled=images is not None)
    recipe = session.text()
    facts = Facts(run)
    results = Results(run, seed=session.seed, stage=verb, recipe=recipe, facts=facts)
    trainer = make_trainer(settings, run, [facts, results])
    if trainer.is_global_zero:
        run.write_config(recipe)
    try:
        if verb == "predict":
            trainer.predict(module, datamodule=data, return_predictions=False)
        elif verb == "validate":
            trainer.validate(module, datamodule=data, verbose=False)
        else:
            trainer.test(module, datamodule=data, verbose=False)
    except Interrupted:
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGKILL)
        raise
    if trainer.is_global_zero:
        run.announce()
    return 0


def adopt(folder: str, module: LightningModule, data: LightningDataModule, unlabelled: bool) -> None:
    """Put a saved adapter into the task; a class that its description names is looked up in domainvl.adapters alone."""
    from domainvl.data.module import DataModule
    from domainvl.hub import read_adapter
    from domainvl.tasks.base import Task

    if not isinstance(module, Task):
        raise CommandError(f"--adapter: {type(module).__name__} is no domainvl task, it takes no adapter")
    saved = read_adapter(folder, module.backbone.spec())
    module.adopt(saved.card.build(), saved.tensors, saved.card.classes, saved.logit_scale)
    if unlabelled and isinstance(data, DataModule):
        # Images without labels say nothing about classes; those of the adapter are predicted.
        data.adopt(saved.card.classes, saved.card.multilabel, saved.card.prompt_set())


@contextmanager
def _folder(images: str | None) -> Iterator[Path | None]:
    """The folder to predict; a single image gets one of its own."""
    if images is None or Path(images).is_dir():
        yield None if images is None else Path(images)
        return
    with tempfile.TemporaryDirectory(prefix="domainvl-") as folder:
        shutil.copy(images, folder)
        yield Path(folder)
