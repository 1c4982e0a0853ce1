"""From scores of tiles to a map: every cell is the mean of the tiles that hold it, near middles most."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np


def hat(starts: np.ndarray, size: int, cell: int, cells: int) -> np.ndarray:
    """Weights of tiles in cells along one side, `[tiles, cells]`: 1 in a tile's middle, falling to 0 at its edge.

    Args:
        starts: Where tiles begin, in pixels.
        size: Pixels of a tile.
        cell: Pixels of a cell.
        cells: Number of cells.
    """
    # The last cell may hang over the scene, and its middle over the last tile.
    last = starts[-1] + size - 0.5
    middles = np.minimum((np.arange(cells) + 0.5) * cell, last)
    away = np.abs(middles - (starts[:, None] + size / 2)) / (size / 2)
    return np.clip(1 - away, 0, None).astype(np.float32)


def blended(
    scores: Callable[[int], np.ndarray], down: np.ndarray, across: np.ndarray, rows: int
) -> Iterator[tuple[int, np.ndarray]]:
    """The map in strips: the first row, and `[C, rows, W]`, NaN where no tile was scored.

    Args:
        scores: Gives a row of tiles, `[columns, C]`, NaN for tiles that were not seen.
        down: Weights of rows of tiles in rows of cells.
        across: Weights of columns of tiles in columns of cells.
        rows: Rows of cells in a strip.
    """
    known: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for top in range(0, down.shape[1], rows):
        weights = down[:, top : top + rows]
        touched = np.flatnonzero(weights.max(axis=1) > 0).tolist()
        for row in touched:
            if row not in known:
                known[row] = _along(scores(row), across)
        for row in [row for row in known if row not in touched]:
            del known[row]
        sums = sum(weights[row][None, :, None] * known[row][0][:, None] for row in touched)
        mass = sum(weights[row][:, None] * known[row][1] for row in touched)
        with np.errstate(invalid="ignore"):
            yield top, np.where(mass > 0, sums / mass, np.float32(np.nan)).astype(np.float32)


def _along(row: np.ndarray, across: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted sums `[C, W]` and weights `[W]` of a row of tiles."""
    seen = ~np.isnan(row).any(axis=1)
    weights = across * seen[:, None]
    return np.nan_to_num(row).T @ weights, weights.sum(axis=0)
