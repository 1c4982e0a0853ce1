"""The heavy half of `map`."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from domainvl.commands.inference import adopt
from domainvl.console.arguments import Arguments
from domainvl.console.session import clear_errors, make_trainer, open_session
from domainvl.console.signals import Interrupted, interruptible
from domainvl.data.rejects import UnreadableImage
from domainvl.errors import CommandError
from domainvl.runs import Run


class Scores(Callback):
    """Hands the scores of every batch to the map, and lets the task forget them.

    Args:
        made: The map.
    """

    def __init__(self, made: Any) -> None:
        self.made = made

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the adapted model's probabilities, or zero-shot's where nothing was adapted."""
        self.made.add(batch["place"], outputs.get("adapted", outputs["zero_shot"]))
        task: Any = pl_module
        task.forget()


def make_map(arguments: Arguments, recipe: dict[str, Any]) -> int:
    """Check the recipe, score the scene, write the map.

    Args:
        arguments: The command line.
        recipe: The merged recipe.
    """
    session = open_session("map", arguments, recipe)
    if session is None:
        return 0
    session.without("adapter", "objectives", "optimizer", "schedule")
    out, cell = Path(str(arguments.option("--out"))), arguments.option("--cell")
    adapter, threshold = arguments.option("--adapter"), arguments.option("--threshold")
    with clear_errors(), tempfile.TemporaryDirectory(prefix="domainvl-") as scratch:
        module, data, settings = session.build()
        if not hasattr(data, "map_scene"):
            raise CommandError(f"map: {type(data).__name__} reads no scenes; the recipe's data must be Satellite")
        if adapter is not None:
            adopt(adapter, module, data, unlabelled=True)
        made = data.map_scene(
            Path(str(arguments.option("--scene"))),
            out,
            preset=getattr(module, "preset", None),
            model=_model(session.text(), adapter),
            cell=None if cell is None else _number("--cell", cell, int),
            threshold=0.5 if threshold is None else _number("--threshold", threshold, float),
        )
        missing = made.missing
        if missing:
            # Rows come one after the other, so one device scores them.
            settings |= {"devices": 1, "num_nodes": 1}
            trainer = make_trainer(settings, Run(Path(scratch)), [Scores(made)])
            try:
                with interruptible():
                    trainer.predict(module, datamodule=data, return_predictions=False)
            except Interrupted as stop:
                print(f"\nstopped by {stop}; the same call goes on", file=sys.stderr, flush=True)
                return stop.status
            except UnreadableImage as error:
                # A worker process puts its traceback in front.
                reason = str(error).strip().splitlines()[-1].rpartition("UnreadableImage: ")[2]
                todo = "mend the file, and map it into a new folder"
                raise CommandError(f"--scene: {reason}", todo=todo, status=1) from error
        facts = made.finish()
    print(f"map of {facts['rows']} x {facts['columns']} cells, {facts['regions']} regions: {out}")
    return 0


def _model(recipe: str, adapter: str | None) -> str:
    """What tells this model from others: the recipe, and the files of the adapter."""
    digest = hashlib.sha256(recipe.encode())
    for file in sorted(Path(adapter).glob("domainvl.*")) if adapter is not None else ():
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _number(name: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise CommandError(f"{name} must be a number, got {text!r}", see="python -m domainvl map --help") from None
