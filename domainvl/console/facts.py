"""`run.json`: on what data a run was made, on which machine, in what time."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from domainvl.data.images import ImageSet
from domainvl.data.module import DataModule
from domainvl.evaluation.files import plain, whole_file
from domainvl.evaluation.leakage import Leakage, SplitContent, check_leakage
from domainvl.runs import Run
from domainvl.tasks.leakage import fingerprints

_ORDER = ("train", "validate", "test")


class Facts(Callback):
    """Writes down what numbers alone do not tell. Seconds of training go on over interruptions.

    Args:
        run: Where to.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._training: dict[str, Any] = {}
        self._began: float | None = None
        self._before = 0.0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run, or the process that tests, has to know."""
        return {"training": self._training, "seconds": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `state_dict`."""
        self._training, self._before = dict(state_dict["training"]), float(state_dict["seconds"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count what is learned and look at the clock."""
        self._began = time.monotonic()
        sizes = [(weight.numel(), weight.requires_grad) for weight in pl_module.parameters()]
        self._training = {
            "parameters": sum(size for size, _ in sizes),
            "trained": sum(size for size, learned in sizes if learned),
            "device": _device(trainer.strategy.root_device),
            "processes": trainer.world_size,
            "precision": str(trainer.precision),
        }

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """How far it came."""
        self._training["epochs"] = trainer.current_epoch + 1
        self._training["steps"] = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._before, self._began = self._seconds(), None

    def write(self, trainer: Trainer, leakage: bool) -> None:
        """Write the file.

        Args:
            trainer: Whose evaluation has ended.
            leakage: Whether to look for what splits share; false where the result says it already.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        shared = _shared(data) if leakage and isinstance(data, DataModule) else None
        facts = {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "training": None if not self._training else self._training | {"seconds": round(self._seconds(), 3)},
            "memory": _memory(trainer.strategy.root_device),
            "data": _data(data) if isinstance(data, DataModule) else None,
            "leakage": None if shared is None else shared.as_dict(),
        }
        with whole_file(self.run.facts) as file:
            json.dump(plain(facts), file, indent=2, ensure_ascii=False, allow_nan=False)
            file.write("\n")

    def _seconds(self) -> float:
        return self._before + (0.0 if self._began is None else time.monotonic() - self._began)


def _data(data: DataModule) -> Mapping[str, Any]:
    manifest = data.manifest
    return {
        "name": manifest.name,
        "licence": manifest.licence,
        "multilabel": data.multilabel,
        "classes": data.classes,
        "shots": data.shots,
        "rows": data.rejects.total,
        "rejected": len(data.rejects),
        "left_out": len(data.rejects.notes),
        "splits": {split: _split(images, data.classes) for split, images in data.sets.items()},
    }


def _split(images: ImageSet, classes: list[str]) -> Mapping[str, Any]:
    found: dict[str, Any] = {
        "images": len(images),
        "patients": len({record.patient for record in images.records}),
    }
    label, valid = images.label, images.valid
    if label is not None:
        shows = torch.nn.functional.one_hot(label, len(classes)).bool() if valid is None else valid & (label == 1)
        found["positives"] = dict(zip(classes, shows.sum(dim=0).tolist(), strict=True))
    return found


def _shared(data: DataModule) -> Leakage | None:
    """What the images that were used have in common between splits; pictures that are not in memory stay unchecked."""
    sets = {name: data.sets[name] for name in _ORDER if name in data.sets}
    if len(sets) < 2:
        return None
    return check_leakage({name: _content(images) for name, images in sets.items()}, crops=False)


def _content(images: ImageSet) -> SplitContent:
    ids = [record.id for record in images.records]
    return SplitContent(ids, [record.patient for record in images.records], fingerprints(images))


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _memory(device: torch.device) -> Mapping[str, int | None]:
    """Most bytes held at once: by the first process, and on its accelerator."""
    held = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    if sys.platform == "win32":
        return {"process": None, "device": held}
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"process": peak if sys.platform == "darwin" else peak * 1024, "device": held}
