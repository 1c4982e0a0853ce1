"""Which squares of a slide are looked at: planned once, kept in a file, used by every encoder."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_modules.readers.slide import SlideReader
from data_modules.readers.tissue import Tissue
from domainvl.data.feature_file import Geometry, Places, read_places, write_places

_VERSION = 2


@dataclass(frozen=True)
class TilePlan:
    """How slides are cut into tiles.

    Attributes:
        mpp: Microns per pixel of a tile.
        size: Pixels along its side.
        overlap: Pixels that it shares with the next one.
        share: Least part of it that is tissue.
        tissue: How tissue is told from glass.
        exact: Average all pixels of a JPEG, also where 2, 4 or 8 of them become one and it could be decoded at that
            scale, which takes less time and differs by half a grey level.
    """

    mpp: float = 0.5
    size: int = 256
    overlap: int = 0
    share: float = 0.25
    tissue: Tissue = field(default_factory=Tissue)
    exact: bool = False

    def __post_init__(self) -> None:
        if self.mpp <= 0 or self.size < 1:
            raise ValueError(f"TilePlan: mpp is {self.mpp} and size {self.size}; both must be positive")
        if not 0 <= self.overlap < self.size:
            raise ValueError(f"TilePlan: overlap is {self.overlap}; give pixels from 0 to below the size, {self.size}")
        if not 0 < self.share <= 1:
            raise ValueError(f"TilePlan: share is {self.share}; give the least part of a tile that is tissue, 0 to 1")

    @property
    def digest(self) -> str:
        """Twelve hex digits over everything that moves a tile or makes its pixels."""
        return hashlib.sha256(json.dumps([_VERSION, asdict(self)], sort_keys=True).encode()).hexdigest()[:12]

    def geometry(self, slide: SlideReader) -> Geometry:
        """What a tile is in pixels of a slide."""
        return Geometry(slide.mpp, self.mpp, self.size, self.overlap, *slide.size)

    def places(self, slide: SlideReader) -> NDArray[np.int64]:
        """Left upper corners of the tiles with enough tissue, x and y at level 0, row by row, `[N, 2]`."""
        step = self.mpp / slide.mpp
        grids = [np.arange(math.ceil(length / ((self.size - self.overlap) * step))) for length in slide.size]
        across, down = (grid * (self.size - self.overlap) * step for grid in grids)
        # A tile has at least eight pixels of mask along a side.
        coarse = min(self.tissue.mpp, self.size * self.mpp / 8)
        pixels, lost = slide.surveyed(coarse)
        # What cannot be seen may be tissue; its tiles are tried, and told when they cannot be read either.
        mask = self.tissue.mask(pixels) | lost
        scale = slide.mpp / coarse
        share = _share(mask, across * scale, down * scale, self.size * self.mpp / coarse)
        rows, columns = np.nonzero(share >= self.share)
        return np.stack([np.rint(across[columns]), np.rint(down[rows])], axis=1).astype(np.int64)

    def planned(self, slide: SlideReader, file: Path, source: str) -> Places:
        """The tiles of a slide, from a file where they are written down, else planned and written.

        Args:
            slide: The slide.
            file: Where they are kept; TRIDENT's layout.
            source: What tells this slide's file from an earlier one of its name.
        """
        found = read_places(file, self.digest, source)
        if found is None:
            found = Places(self.places(slide), self.geometry(slide))
            write_places(file, found, self.digest, source)
        return found


def _share(
    mask: NDArray[np.bool_], across: NDArray[np.floating], down: NDArray[np.floating], side: float
) -> NDArray[np.floating]:
    """Part of every tile that is tissue, `[rows, columns]`; what lies outside the slide is none."""
    table = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    table[1:, 1:] = mask.cumsum(axis=0).cumsum(axis=1)
    (top, bottom), (left, right) = (
        tuple(np.rint(edge).astype(np.int64).clip(0, length) for edge in (start, start + side))
        for start, length in ((down, mask.shape[0]), (across, mask.shape[1]))
    )
    inside = table[bottom][:, right] - table[top][:, right] - table[bottom][:, left] + table[top][:, left]
    return inside / side**2
