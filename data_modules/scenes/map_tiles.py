"""The tiles of one scene, row by row, in batches: what a map is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from data_modules.scenes.decoder import Look, SceneDecoder
from data_modules.scenes.files import CACHE, Box, Header
from data_modules.scenes.plan import Tiling
from domainvl.data.preset import Preset
from domainvl.data.rejects import UnreadableImage

_MOST_CACHE = 512 * 2**20


@dataclass(frozen=True)
class MapTiles:
    """The grid of tiles over a scene.

    Attributes:
        path: The scene.
        header: What it says about itself.
        tiling: How it is cut.
        preset: What the tower takes.
        look: What is read.
    """

    path: Path
    header: Header
    tiling: Tiling
    preset: Preset
    look: Look

    @property
    def tops(self) -> np.ndarray:
        """Where rows of tiles begin."""
        return self.tiling.starts(self.header.height)

    @property
    def lefts(self) -> np.ndarray:
        """Where columns of tiles begin."""
        return self.tiling.starts(self.header.width)

    @property
    def cache(self) -> int:
        """Bytes of GDAL's cache that hold one row of the file's blocks, so that none is decoded twice in a row."""
        one = self.header
        row = one.block[0] * (one.width + one.block[1]) * one.count * np.dtype(one.dtype).itemsize
        return int(min(max(CACHE, 1.25 * row), _MOST_CACHE))

    def batch(self, row: int, columns: np.ndarray) -> dict[str, Any] | None:
        """Some tiles of a row, those that were seen; None where none was.

        `place` `[B, 2]` holds their row and column.
        """
        side = self.tiling.size
        top, first, last = int(self.tops[row]), int(self.lefts[columns[0]]), int(self.lefts[columns[-1]]) + side
        whole: Box = (first, top, last - first, side)
        decoder = SceneDecoder(self.preset, self.look, self.tiling.reduce)
        block = decoder.block(self.path, whole, self.cache)
        pixels, places = [], []
        for column in columns.tolist():
            box: Box = (int(self.lefts[column]), top, side, side)
            try:
                pixels.append(decoder.picture(*block.cut(box)))
            except UnreadableImage:
                # Not seen well enough: the map is empty there, which is what it says.
                continue
            places.append((row, column))
        if not places:
            return None
        names = [f"{row},{column}" for row, column in places]
        index = torch.tensor([row * len(self.lefts) + column for row, column in places])
        return {
            "image": torch.stack(pixels),
            "index": index,
            "id": names,
            "patient": names,
            "place": torch.tensor(places),
        }


class MapStream(IterableDataset[Mapping[str, Any]]):
    """Batches of the rows that are wanted, in order.

    Args:
        tiles: The grid.
        rows: Numbers of rows of tiles.
        size: Most tiles of a batch; a batch holds tiles of one row.
    """

    def __init__(self, tiles: MapTiles, rows: list[int], size: int) -> None:
        self.tiles = tiles
        self.rows = rows
        self.size = size

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        columns = np.arange(len(self.tiles.lefts))
        for row in self.rows:
            for start in range(0, len(columns), self.size):
                batch = self.tiles.batch(row, columns[start : start + self.size])
                if batch is not None:
                    yield batch

    def loader(self, workers: int) -> DataLoader[Any]:
        """The loader: at most one process reads, because a second one would decode the same blocks again."""
        return DataLoader(self, batch_size=None, num_workers=min(1, workers))
