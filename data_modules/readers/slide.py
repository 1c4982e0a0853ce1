"""A whole-slide image as everything else sees it: levels, microns per pixel, and squares of any resolution.

Microns per pixel are never rounded to a magnification and a downsample is never rounded to a whole number: both are
what makes the tools of the field read a third too much or too little of the tissue from some slides.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from domainvl.data.rejects import UnreadableImage

Pixels = NDArray[np.uint8]

WHITE = 255
"""What lies outside the slide, and where a scanner stored nothing: the glass."""

_FINER = 1.1
"""A level may be this much coarser than what is asked for; the next finer one would cost four times as much."""
_SAME = 1e-3
"""How far a resolution may be from a whole multiple of a level's to be taken for it; a quarter of a pixel in 256."""
_BLOCK = 1024
_SMALL = 8
PLAUSIBLE = (0.02, 100.0)
"""Microns per pixel that a slide can have; what scanners write when they know none lies outside."""


class NoResolution(UnreadableImage):
    """A slide that does not say how large its pixels are."""

    def __init__(self, more: str = "") -> None:
        super().__init__(f"it states no microns per pixel{more}; add a column `mpp` to the table")


@dataclass(frozen=True)
class Level:
    """One resolution of a slide.

    Attributes:
        width: Pixels from left to right.
        height: Pixels from top to bottom.
        downsample: Pixels of level 0 along one of its pixels, not rounded.
    """

    width: int
    height: int
    downsample: float


class SlideReader(ABC):
    """Base of all slide readers.

    A reader opens its file when it reads the first pixel, once per process, so it may be sent to workers and may live
    through a fork. Any number of threads may read at once.

    Args:
        path: The file.
        levels: Its resolutions, the finest first.
        mpp: Microns per pixel of level 0.
    """

    def __init__(self, path: Path, levels: tuple[Level, ...], mpp: float) -> None:
        self.path = path
        self.levels = levels
        self.mpp = mpp

    @abstractmethod
    def region(
        self, level: int, x: int, y: int, width: int, height: int, shrink: int = 1, out: Pixels | None = None
    ) -> Pixels:
        """Pixels of one level, `[height, width, 3]` divided by `shrink`; white outside the slide.

        Args:
            level: Number of the level.
            x: Left edge, in pixels of that level.
            y: Upper edge.
            width: How many pixels, a multiple of `shrink`.
            height: How many pixels, a multiple of `shrink`.
            shrink: So many pixels along each side are averaged into one.
            out: Where they are written, contiguous; made when None.

        Raises:
            UnreadableImage: They are damaged.
        """

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of level 0."""
        return self.levels[0].width, self.levels[0].height

    def level_for(self, mpp: float) -> int:
        """The coarsest level that is fine enough for a resolution."""
        fine = [number for number, level in enumerate(self.levels) if self.mpp * level.downsample <= _FINER * mpp]
        return fine[-1] if fine else 0

    def read(self, place: tuple[int, int], size: int, mpp: float, out: Pixels | None = None) -> Pixels:
        """A square of the slide at any resolution, uint8 `[size, size, 3]`.

        Args:
            place: Its left upper corner, x and y in pixels of level 0.
            size: Pixels along a side.
            mpp: Microns per pixel.
            out: Where it is written, a row of a batch; made when None.

        Raises:
            UnreadableImage: What lies there is damaged.
        """
        return self.rectangle(place, (size, size), mpp, out)

    def rectangle(
        self, place: tuple[float, float], size: tuple[int, int], mpp: float, out: Pixels | None = None
    ) -> Pixels:
        """As `read`, for a width and a height; uint8 `[H, W, 3]`."""
        return self._resampled(self.level_for(mpp), place, size, mpp, out)

    def _resampled(
        self, number: int, place: tuple[float, float], size: tuple[int, int], mpp: float, out: Pixels | None = None
    ) -> Pixels:
        level = self.levels[number]
        ratio = mpp / (self.mpp * level.downsample)
        left, top = (at / level.downsample for at in place)
        whole = round(ratio)
        if whole and abs(ratio / whole - 1) < _SAME:
            return self.region(number, round(left), round(top), size[0] * whole, size[1] * whole, whole, out)
        right, bottom = left + size[0] * ratio, top + size[1] * ratio
        x, y = math.floor(left), math.floor(top)
        pixels = self.region(number, x, y, math.ceil(right) - x, math.ceil(bottom) - y)
        # The box has fractions of a pixel, so the field of view is exact. Pillow's BOX takes whole pixels alone, all
        # with one weight; HAMMING is up to five times as close to the mean over the area.
        how = Image.Resampling.HAMMING if ratio > 1 else Image.Resampling.BICUBIC
        box = (left - x, top - y, right - x, bottom - y)
        return _given(np.array(Image.fromarray(pixels).resize(size, how, box=box)), out)

    def overview(self, mpp: float) -> Pixels:
        """The whole slide at a coarse resolution, uint8 `[H, W, 3]`, read in blocks so that memory stays flat.

        It is made of the slide's own levels: thumbnails and label pages beside them may show a patient's name. What is
        damaged in all of them is white.
        """
        return self.surveyed(mpp)[0]

    def surveyed(self, mpp: float) -> tuple[Pixels, NDArray[np.bool_]]:
        """The overview, and which of its pixels no level could give, `[H, W]`."""
        step = mpp / self.mpp
        width, height = (max(1, math.ceil(length / step)) for length in self.size)
        pixels, lost = np.full((height, width, 3), WHITE, np.uint8), np.zeros((height, width), np.bool_)
        todo = [(self.level_for(mpp), 0, 0, width, height, 0)]
        while todo:
            level, left, top, right, bottom, side = todo.pop()
            side = side or max(1, int(_BLOCK * self.levels[level].downsample / step))
            for y in range(top, bottom, side):
                for x in range(left, right, side):
                    x1, y1 = min(x + side, right), min(y + side, bottom)
                    try:
                        pixels[y:y1, x:x1] = self._resampled(level, (x * step, y * step), (x1 - x, y1 - y), mpp)
                    except UnreadableImage:
                        # Around a damaged tile blocks get smaller, then a finer level is asked.
                        if side > _SMALL:
                            todo.append((level, x, y, x1, y1, side // 4))
                        elif level:
                            todo.append((level - 1, x, y, x1, y1, 0))
                        else:
                            lost[y:y1, x:x1] = True
        return pixels, lost


def shrunk(pixels: Pixels, factor: int, out: Pixels | None = None) -> Pixels:
    """The mean of every square of `factor` pixels; sides are multiples of it."""
    if factor == 1:
        return _given(pixels, out)
    if factor != 2:
        return _given(np.array(Image.fromarray(pixels).reduce(factor)), out)
    # 20x from 40x is what is asked for most, and several times as fast in whole rows.
    height, width, _ = pixels.shape
    result = np.empty((height // 2, width // 2, 3), np.uint8) if out is None else out
    rows = np.ascontiguousarray(pixels).reshape(height, width * 3)
    pairs = np.add(rows[0::2], rows[1::2], dtype=np.uint16)
    sums = pairs[:, :-3] + pairs[:, 3:]
    sums += 2
    sums >>= 2
    for colour in range(3):
        result[..., colour] = sums[:, colour::6]
    return result


def _given(pixels: Pixels, out: Pixels | None) -> Pixels:
    if out is None:
        return pixels
    out[:] = pixels
    return out


def checked_mpp(x: float | None, y: float | None, more: str = "") -> float:
    """Microns per pixel from what a file states for both axes; raises NoResolution where it states nothing plausible.

    Args:
        x: From left to right.
        y: From top to bottom.
        more: What the file says instead.
    """
    if x is None or y is None or not all(PLAUSIBLE[0] <= value <= PLAUSIBLE[1] for value in (x, y)):
        raise NoResolution(more)
    if abs(x / y - 1) > 0.01:
        raise UnreadableImage(f"its pixels are {x:.4g} by {y:.4g} microns; slides with square pixels are read")
    return (x + y) / 2
