"""The sides of `slides.py`; each runs in a process of its own."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_modules.readers.open_slide import open_slide
from data_modules.readers.slide import Pixels

TILE = 256
_MOST = 1500

PARTS: dict[str, dict[str, str]] = {
    "aligned": {"ours": "", "OpenSlide, slice": "", "OpenSlide, convert": ""},
    "free": {"ours": "", "OpenSlide, slice": "", "OpenSlide, convert": ""},
    "20x from 40x": {
        "ours": "",
        "OpenSlide, PIL bicubic": "",
        "OpenSlide, PIL box": "",
        "OpenSlide, PIL reduce": "",
        "OpenSlide, OpenCV area": "cv2",
    },
}
"""Sides of every part, and the library that one needs beside ours."""


def measure(part: str, name: str, path: Path) -> float:
    """CPU seconds per tile."""
    step = 2 * TILE if part == "20x from 40x" else TILE
    ours = open_slide(path)
    width, height = ours.size
    places = [(x, y) for y in range(0, height - step + 1, step) for x in range(0, width - step + 1, step)][:_MOST]
    if part == "free":
        rng = np.random.default_rng(0)
        places = [(int(rng.integers(0, width - step)), int(rng.integers(0, height - step))) for _ in places[:600]]
    if name == "ours":
        mpp = ours.mpp * step / TILE

        def read(x: int, y: int, out: Pixels) -> None:
            ours.read((x, y), TILE, mpp, out)
    else:
        theirs = _openslide(path, name, step)

        def read(x: int, y: int, out: Pixels) -> None:
            out[:] = theirs(x, y)

    batch = np.empty((16, TILE, TILE, 3), np.uint8)
    # One read opens the file and imports what it needs.
    read(0, 0, batch[0])
    began = time.process_time()
    for number, (x, y) in enumerate(places):
        read(x, y, batch[number % 16])
    return (time.process_time() - began) / len(places)


def _openslide(path: Path, name: str, step: int) -> Callable[[int, int], Any]:
    import openslide

    slide = openslide.OpenSlide(path)
    shape = (step, step)

    def sliced(x: int, y: int) -> Any:
        return np.asarray(slide.read_region((x, y), 0, shape))[..., :3]

    def converted(x: int, y: int) -> Image.Image:
        return slide.read_region((x, y), 0, shape).convert("RGB")

    def resized(how: Image.Resampling) -> Callable[[int, int], Any]:
        return lambda x, y: np.asarray(converted(x, y).resize((TILE, TILE), how))

    def by_opencv(x: int, y: int) -> Any:
        import cv2

        return cv2.resize(sliced(x, y), (TILE, TILE), interpolation=cv2.INTER_AREA)

    readers: dict[str, Callable[[int, int], Any]] = {
        "slice": sliced,
        "convert": lambda x, y: np.asarray(converted(x, y)),
        "PIL bicubic": resized(Image.Resampling.BICUBIC),
        "PIL box": resized(Image.Resampling.BOX),
        "PIL reduce": lambda x, y: np.asarray(converted(x, y).reduce(2)),
        "OpenCV area": by_opencv,
    }
    return readers[name.removeprefix("OpenSlide, ")]


def embedded(path: Path, folder: Path) -> float:
    """Largest resident size of a process that embeds a slide, in MiB."""
    import torch

    from data_modules import TilePlan
    from data_modules.whole_slides.embedding import SlideEmbedder, SlideFiles, maker_of
    from domainvl.backbones import HuggingFace
    from domainvl.data import Record

    torch.set_num_threads(1)
    backbone = HuggingFace("builtin:tiny").requires_grad_(False)
    plan = TilePlan(mpp=0.5, size=TILE)
    files = SlideFiles(folder, maker_of(backbone, plan), {})
    embedder = SlideEmbedder(backbone, torch.device("cpu"), plan, files, batch_size=16, workers=1)
    reasons = embedder.embed([Record(path.name, path.name, "p")], path.parent)
    if reasons != [None]:
        raise RuntimeError(f"the slide was not embedded: {reasons[0]}")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
