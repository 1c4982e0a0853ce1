"""What a model says of every tile of a slide, laid over the slide: a pyramid for viewers and a picture to look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from PIL import Image

from data_modules.readers.slide import SlideReader
from data_modules.slides import WholeSlides
from domainvl.data.feature_file import Geometry
from domainvl.tasks.slide import SlideClassification

_TILE = 256
_SMALLEST = 256
_SIDE = 900
"""Pixels along the longer side of an overview."""
_GLASS = (255, 255, 255)


def tile_map(
    places: NDArray[np.int64], values: NDArray[np.floating], geometry: Geometry, cell: float
) -> NDArray[np.float32]:
    """Values of tiles on a grid over the whole slide, the mean where tiles overlap, NaN where there is none.

    Args:
        places: Left upper corners at level 0, `[N, 2]`.
        values: One per tile, `[N]`.
        geometry: What a tile is on this slide.
        cell: Pixels of level 0 along one of the grid, not more than a tile's side.

    Returns:
        `[h, w]`, float32.
    """
    shape = tuple(int(np.ceil(length / cell)) for length in (geometry.height, geometry.width))
    total, count = np.zeros(shape, np.float64), np.zeros(shape, np.float64)
    starts = np.rint(places / cell).astype(np.int64)
    ends = np.maximum(np.rint((places + geometry.side) / cell).astype(np.int64), starts + 1)
    for (left, top), (right, bottom), value in zip(starts, ends, values, strict=True):
        total[top:bottom, left:right] += value
        count[top:bottom, left:right] += 1
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, total / count, np.nan).astype(np.float32)


def coloured(values: NDArray[np.floating], low: float, high: float) -> NDArray[np.uint8]:
    """Values `[h, w]` in colours from blue (low) to red (high), white where they are NaN, `[h, w, 3]`."""
    import matplotlib

    scaled = np.clip((values - low) / (high - low or 1.0), 0, 1)
    colours = matplotlib.colormaps["turbo"](np.nan_to_num(scaled))[..., :3]
    pixels = np.rint(255 * colours).astype(np.uint8)
    pixels[np.isnan(values)] = _GLASS
    return pixels


def write_pyramid(path: Path, pixels: NDArray[np.uint8], mpp: float) -> None:
    """A tiled pyramidal TIFF that states its microns per pixel, so that viewers lay it over the slide.

    Args:
        path: Where to; written whole or not at all.
        pixels: `[H, W, 3]`.
        mpp: Microns per pixel.
    """
    import tifffile

    draft = path.with_name(f".{path.name}.tmp")
    image = Image.fromarray(pixels)
    with tifffile.TiffWriter(draft) as tiff:
        number = 0
        while True:
            per_cm = 10000 / (mpp * 2**number)
            tiff.write(
                np.asarray(image),
                tile=(_TILE, _TILE),
                photometric="rgb",
                compression="deflate",
                predictor=True,
                subfiletype=int(number > 0),
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
            if max(image.size) <= _SMALLEST:
                break
            image = image.resize((-(-image.width // 2), -(-image.height // 2)), Image.Resampling.NEAREST)
            number += 1
    draft.replace(path)


def overlaid(
    slide: SlideReader, heat: NDArray[np.uint8], known: NDArray[np.bool_], opacity: float = 0.5
) -> Image.Image:
    """The slide's overview with the heat laid over its tiles."""
    mpp = slide.mpp * max(max(slide.size) / _SIDE, 1)
    thumbnail = Image.fromarray(slide.overview(mpp))
    laid = Image.fromarray(heat).resize(thumbnail.size, Image.Resampling.NEAREST)
    share = Image.fromarray((known * round(255 * opacity)).astype(np.uint8))
    return Image.composite(laid, thumbnail, share.resize(thumbnail.size, Image.Resampling.NEAREST))


class SlideHeatmaps(Callback):
    """Draws every slide of a test or prediction: `NAME.tif`, a pyramid, and `NAME.png`, laid over the slide.

    Args:
        folder: Where to; `heatmaps` in the run folder when None.
        of: `class` draws the zero-shot probability of a class; `attention` the attention of the adapter (ABMIL, CLAM).
        class_name: Which class; when None the one that the slide is given.
        cells: Pixels of the pyramid along a tile.
    """

    def __init__(
        self,
        folder: str | None = None,
        of: Literal["class", "attention"] = "class",
        class_name: str | None = None,
        cells: int = 16,
    ) -> None:
        if cells < 1:
            raise ValueError(f"SlideHeatmaps: cells is {cells}; give at least 1")
        self.folder, self.of, self.class_name, self.cells = folder, of, class_name, cells

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the slides of a batch."""
        self._draw(trainer, pl_module, batch)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the slides of a batch."""
        self._draw(trainer, pl_module, batch)

    def _draw(self, trainer: Trainer, task: LightningModule, batch: Mapping[str, Any]) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(task, SlideClassification) or not isinstance(data, WholeSlides):
            raise TypeError(
                f"SlideHeatmaps draws slides of WholeSlides in the task SlideClassification, not {type(data).__name__} "
                f"in {type(task).__name__}"
            )
        folder = Path(trainer.default_root_dir) / "heatmaps" if self.folder is None else Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        values = self._values(task, batch)
        for row, keep in enumerate(batch["keep"].cpu().numpy()):
            manifest = data.predicted
            slide = data.slide(manifest.records[int(batch["index"][row])], manifest.root)
            geometry = data.plan.geometry(slide)
            cell = geometry.side / self.cells
            known = tile_map(batch["place"][row].cpu().numpy()[keep], values[row][keep], geometry, cell)
            # A probability has a scale of its own; attention only says which tile has more than another.
            ends = (0.0, 1.0) if self.of == "class" else (float(np.nanmin(known)), float(np.nanmax(known)))
            heat = coloured(known, *ends)
            stem = Path(str(batch["id"][row])).with_suffix("").as_posix().replace("/", "_")
            write_pyramid(folder / f"{stem}.tif", heat, slide.mpp * cell)
            overlaid(slide, heat, ~np.isnan(known)).save(folder / f"{stem}.png")

    @torch.no_grad()
    def _values(self, task: SlideClassification, batch: Mapping[str, Any]) -> NDArray[np.float32]:
        """One value per tile, `[B, N]`."""
        features = task.scored(batch)
        scores = features["image.logits" if task.adapter is not None else "frozen/image.logits"]
        chosen = scores.argmax(dim=-1)
        if self.class_name is not None:
            if self.class_name not in task.classes:
                raise ValueError(
                    f"SlideHeatmaps: class_name is {self.class_name!r}; the classes are {', '.join(task.classes)}"
                )
            chosen = torch.full_like(chosen, task.classes.index(self.class_name))
        if self.of == "class":
            found = task.tile_scores(batch)
            tiles = (found.sigmoid() if task.multilabel else found.softmax(dim=-1)).movedim(-1, 1)
        elif "image@bag.attention" in features:
            tiles = features["image@bag.attention"].expand(-1, len(task.classes), -1)
        else:
            raise ValueError("SlideHeatmaps: of is attention, and the adapter gives none; ABMIL and CLAM do")
        picked: NDArray[np.float32] = tiles[torch.arange(len(chosen)), chosen].float().cpu().numpy()
        return picked
