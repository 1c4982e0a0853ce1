"""Images as people have them in a notebook: paths, DICOM files, PIL images, arrays."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from domainvl.data.loading import Loading
from domainvl.data.preset import Preset
from domainvl.data.rejects import UnreadableImage

Picture = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor
"""A path, a PIL image, uint8 `[H, W]` or `[H, W, 3]` as an array, uint8 `[C, H, W]` as a tensor."""

_SINGLE = (str, os.PathLike, Image.Image)


def several(images: Picture | Iterable[Picture]) -> tuple[Iterable[Picture], int | None]:
    """One image as a row of one, and how many there are, where that is known."""
    alone = isinstance(images, _SINGLE) or (isinstance(images, (np.ndarray, Tensor)) and images.ndim < 4)
    if alone:
        return [images], 1  # type: ignore[list-item]
    many: Any = images
    return many, len(many) if hasattr(many, "__len__") else None


def batches(images: Iterable[Picture], preset: Preset, size: int) -> Iterator[Tensor]:
    """Pixels uint8 `[B, 3, S, S]`, read by a few threads, one batch ahead of who takes them and no more."""

    def pixels(numbered: tuple[int, Picture]) -> Tensor:
        return preset.pixels(_read(*numbered))

    rows = enumerate(images)
    with ThreadPoolExecutor(max(1, Loading().readers)) as pool:
        waiting = [pool.submit(pixels, row) for row in islice(rows, size)]
        while waiting:
            batch = torch.stack([one.result() for one in waiting])
            waiting = [pool.submit(pixels, row) for row in islice(rows, size)]
            yield batch


def readers(name: str) -> Any:
    """A module of `data_modules.readers`: they stand above this package, so they are looked up and not imported."""
    return importlib.import_module(f"data_modules.readers.{name}")


def _read(number: int, image: Picture) -> Image.Image | Tensor:
    if isinstance(image, (str, os.PathLike)):
        return _read_file(Path(image))
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        return _of_array(number, image)
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.dim() == 3 and len(image) in (1, 3):
        return image
    what = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
    raise TypeError(
        f"image {number} is {what}; accepted are paths, PIL images, arrays uint8 [H, W] or [H, W, 3] and tensors uint8 "
        "[3, H, W], from 0 to 255"
    )


def _of_array(number: int, image: np.ndarray) -> Image.Image:
    grey_or_colour = image.ndim == 2 or (image.ndim == 3 and image.shape[-1] == 3)
    if image.dtype != np.uint8 or not grey_or_colour:
        raise TypeError(
            f"image {number} is an array {image.dtype} {image.shape}; accepted are uint8 [H, W] and [H, W, 3] from 0 "
            "to 255. Other ranges are for you to choose, e.g. a window of Hounsfield units"
        )
    return Image.fromarray(image)


def _read_file(path: Path) -> Image.Image:
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder; give its files, or use `python -m domainvl predict ADAPTER {path} --output FILE.csv`"
        )
    try:
        return readers("image").read_image(path)
    except UnreadableImage as error:
        raise ValueError(f"{path}: {error}") from None
