"""Pictures: paths, DICOM files, PIL images, arrays."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from domainvl.data.preset import Preset
from domainvl.data.rejects import UnreadableImage
from domainvl.inputs.base import Inputs, unreadable

Picture = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor
"""A path, a PIL image, uint8 `[H, W]` or `[H, W, 3]` as an array, uint8 `[C, H, W]` as a tensor."""

_SINGLE = (str, os.PathLike, Image.Image)


class Pictures(Inputs):
    """Pictures, as `predict RECIPE --images` reads them.

    Args:
        preset: Preprocessing.
        sensor: The sensor whose bands the training stretched; files are then not read here.
    """

    preset: Preset
    noun = "image"

    def __init__(self, preset: Preset, sensor: str | None = None) -> None:
        self.preset, self.sensor = preset, sensor

    def several(self, items: Picture | Iterable[Picture]) -> tuple[Iterable[Picture], int | None]:
        """See `Inputs.several`."""
        alone = isinstance(items, _SINGLE) or (isinstance(items, (np.ndarray, Tensor)) and items.ndim < 4)
        if alone:
            return [items], 1  # type: ignore[list-item]
        return super().several(items)

    def open(self, number: int, item: Picture) -> Tensor:
        """Pixels uint8 `[3, S, S]`."""
        return self.preset.pixels(self._read(number, item))

    def stack(self, items: list[Tensor]) -> Tensor:
        """Pixels uint8 `[B, 3, S, S]`."""
        return torch.stack(items)

    def _read(self, number: int, image: Picture) -> Image.Image | Tensor:
        if isinstance(image, (str, os.PathLike)):
            return self._read_file(self.path(number, image))
        if isinstance(image, Image.Image):
            return image
        if isinstance(image, np.ndarray):
            return _of_array(number, image)
        if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.dim() == 3 and len(image) in (1, 3):
            return image
        what = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(
            f"image {number} is {what}; accepted are paths, PIL images, arrays uint8 [H, W] or [H, W, 3] and tensors "
            "uint8 [3, H, W], from 0 to 255"
        )

    def _read_file(self, path: Path) -> Image.Image:
        if path.is_dir():
            raise ValueError(
                f"{path} is a folder; give its files, or use `python -m domainvl predict ADAPTER {path} "
                "--output FILE.csv`"
            )
        if self.sensor is not None:
            raise ValueError(
                f"{path}: this adapter was trained on bands of {self.sensor}, stretched by the recipe's data module; "
                "use `python -m domainvl predict RECIPE --adapter FOLDER --images DIR`, or give arrays uint8 "
                "[H, W, 3] that are stretched in that way"
            )
        # As the command line does: readers stand above this package, so they are looked up and not imported.
        reader: Callable[[Path], Image.Image] = importlib.import_module("data_modules.readers.image").read_image
        try:
            return reader(path)
        except UnreadableImage as error:
            raise unreadable(path, error) from None


def _of_array(number: int, image: np.ndarray) -> Image.Image:
    grey_or_colour = image.ndim == 2 or (image.ndim == 3 and image.shape[-1] == 3)
    if image.dtype != np.uint8 or not grey_or_colour:
        raise TypeError(
            f"image {number} is an array {image.dtype} {image.shape}; accepted are uint8 [H, W] and [H, W, 3] from 0 "
            "to 255. Other ranges are for you to choose, e.g. a window of Hounsfield units"
        )
    return Image.fromarray(image)
