"""The pictures of a run, for its report: the few images that it shows are read again, and the model looks at them."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from domainvl import recipes
from domainvl.commands.inference import adopt
from domainvl.console.arguments import Arguments
from domainvl.console.session import clear_errors, open_session
from domainvl.data.boxes import Box, preset_box
from domainvl.data.module import DataModule
from domainvl.data.preset import Preset
from domainvl.errors import CommandError
from domainvl.report import Record, Seen
from domainvl.tasks.base import Task
from domainvl.tasks.class_maps import ClassMaps


def look(record: Record, images: Collection[str], adapter: str | None, allow: list[str]) -> dict[str, Seen]:
    """What some images of the test split look like, to people and to both models.

    Args:
        record: The run.
        images: Their ids.
        adapter: Folder of the adapter that was measured; the run's own when None.
        allow: The user's own packages that the recipe names.
    """
    config = record.run.config
    if not config.exists():
        raise CommandError(f"--images: {config} is missing, so nobody knows which model and data the run had")
    if record.metrics["split"] != "test":
        raise CommandError(f"--images shows the test split; this run measured {record.metrics['split']!r}")
    folder = adapter or (str(record.run.adapter) if record.run.adapter.exists() else None)
    if folder is None and "adapted" in record.models:
        raise CommandError(
            f"--images: there is no adapter in {record.run.folder}", todo="give --adapter FOLDER, the one it measured"
        )
    arguments = Arguments(recipes=[config], options={"--allow-import": allow} if allow else {})
    session = open_session("test", arguments, recipes.load([config]))
    if session is None:
        raise RuntimeError("look: the session asked for help")
    session.without("adapter", "objectives", "optimizer", "schedule")
    with clear_errors(), tempfile.TemporaryDirectory(prefix="domainvl-") as scratch:
        module, data, settings = session.build()
        if not isinstance(module, Task) or not isinstance(data, DataModule):
            raise CommandError(f"--images: {type(module).__name__} with {type(data).__name__} are no domainvl classes")
        if data.hashes()["split"] != record.metrics["hashes"]["split"]:
            raise CommandError("--images: the data are not those of the run (another split hash)", status=1)
        if folder is not None:
            adopt(folder, module, data, unlabelled=False)
        data.only(images)
        watcher = _Look(data)
        trainer = Trainer(
            accelerator=settings["accelerator"],
            devices=1,
            precision=settings["precision"],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[watcher],
            # Lists of rejects and whatever else a run writes; this is none.
            default_root_dir=scratch,
        )
        trainer.predict(module, datamodule=data, return_predictions=False)
    return watcher.seen


class _Look(Callback):
    """Keeps pictures and maps of every batch.

    Args:
        data: Where the images come from.
    """

    def __init__(self, data: DataModule) -> None:
        self.data = data
        self.seen: dict[str, Seen] = {}
        self._maps: ClassMaps | None = None

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Mapping[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at a batch."""
        task: Any = pl_module
        if "image" not in batch:
            raise CommandError(f"--images: {type(task).__name__} looks at no pictures, there is nothing to show")
        images, preset = batch["image"], task.preset
        maps: dict[str, Tensor] = {}
        if task.backbone.image.has_locals and task.classes:
            if self._maps is None:
                data, speed = self.data, task.speed
                parts = (data.classes, data.multilabel, data.prompts, task.backbone, task.adapter, speed)
                self._maps = ClassMaps(*parts)
            maps = self._maps(images)
        for row, (name, position) in enumerate(zip(batch["id"], batch["index"].tolist(), strict=True)):
            own = {
                (model, label): _middle(values[row, column]).float().cpu().numpy()
                for model, values in maps.items()
                for column, label in enumerate(self.data.classes)
            }
            boxes = self.data.boxes(position)
            self.seen[name] = Seen(_shown(images[row], preset), own, _shares(boxes, preset))


def _shares(boxes: Sequence[Box], preset: Any) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Boxes as shares of the picture; those that the crop has cut away are left out."""
    if not isinstance(preset, Preset):
        return []
    placed = [(box.phrase, preset_box(box, preset)) for box in boxes]
    size = preset.size
    return [(phrase, (x[0] / size, x[1] / size, x[2] / size, x[3] / size)) for phrase, x in placed if x is not None]


def _middle(values: Tensor) -> Tensor:
    """A map `[H, W]`, or the middle slice of one of a volume, `[D, H, W]`."""
    return values[len(values) // 2] if values.dim() == 3 else values


def _shown(image: Tensor, preset: Any) -> np.ndarray:
    """What the tower takes as a picture again, `[H, W]` or `[H, W, 3]`; of a volume the middle slice."""
    if image.dim() == 4:
        image = image[:, image.shape[1] // 2]
    mean, std = (torch.tensor(values, device=image.device)[:, None, None] for values in (preset.mean, preset.std))
    pixels = ((image.float() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    return (pixels.permute(1, 2, 0) if len(pixels) == 3 else pixels[0]).numpy()
