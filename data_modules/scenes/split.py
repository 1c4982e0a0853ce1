"""Which tiles are trained on and which are tested on, so that a test tile is no neighbour of a training tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data_modules.scenes.geometry import Footprints, gaps, grid_cells
from domainvl.data.manifest import SPLITS, Split
from domainvl.data.splits import SplitRule, patient_split

_FAR = 100_000.0
"""Metres beyond which nobody asks how far test tiles are."""


@dataclass(frozen=True)
class SpatialSplit(SplitRule):
    """How places are split.

    Land near a tile looks like the tile. Spatial splits deal out cells of a global grid, whole, with all scenes and
    dates that show them, and leave out what lies within `buffer` of a test tile. Random splits deal out single tiles
    (all dates of one together); they are there to show what they overstate.

    Attributes:
        seed: Seed of the split.
        fractions: Shares of train, validate and test.
        method: `spatial` or `random`.
        cell: Side of a cell in metres.
        buffer: Metres between a test tile and a training tile, edge to edge; the side of the largest tile when None.
    """

    method: Literal["spatial", "random"] = "spatial"
    cell: float = 5000.0
    buffer: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cell <= 0 or (self.buffer is not None and self.buffer < 0):
            raise ValueError(f"SpatialSplit: cell is {self.cell} and buffer {self.buffer}; give metres, cell above 0")
        if self.method not in ("spatial", "random"):
            raise ValueError(f"SpatialSplit: method {self.method!r} is not one of spatial, random")


@dataclass(frozen=True)
class Assigned:
    """What a split made of tiles.

    Attributes:
        place: Name of the place, `[N]`: what is drawn, split and resampled as one.
        split: Train, validate or test, `[N]`; None where a tile is left out.
        nearest: Metres from training to test tiles, at least; None when there are none within 100 km.
        buffer: Metres that were kept free; None for a random split, or one of the data set's own.
        method: `spatial`, `random`, or `the data set's own`.
    """

    place: list[str]
    split: list[Split | None]
    nearest: float | None
    buffer: float | None
    method: str

    def facts(self, rule: SpatialSplit) -> dict[str, str | float | int | None]:
        """What a reader of results has to know, for `metrics.json`."""
        return {
            "method": self.method,
            "cell_m": None if self.buffer is None else rule.cell,
            "buffer_m": self.buffer,
            "nearest_train_test_m": self.nearest,
            "looked_within_m": _FAR,
            "left_out": self.split.count(None),
        }

    def summary(self) -> str:
        """One line for people."""
        counts = ", ".join(f"{self.split.count(name)} {name}" for name in SPLITS)
        apart = "more than 100 km" if self.nearest is None else f"{self.nearest:,.0f} m"
        text = f"tiles: {counts}; nearest train-test pair {apart}"
        if self.buffer is None:
            return f"{text}; no buffer was kept around test tiles"
        return f"{text}; buffer {self.buffer:,.0f} m, {self.split.count(None)} tiles left out within it"


def assign(rule: SpatialSplit, places: Footprints, own: Sequence[Split] | None = None) -> Assigned:
    """Split tiles.

    Args:
        rule: How.
        places: Where they lie.
        own: The data set's own split of them; it is kept, and only what it keeps apart is measured.
    """
    method = rule.method if own is None else "the data set's own"
    if method != "spatial":
        # Scenes of two dates have the same grid up to a fraction of a pixel; a millionth of a degree is 0.1 m.
        names = [f"{lon:.5f},{lat:.5f}" for lon, lat in zip(places.lon, places.lat, strict=True)]
    else:
        names = [f"cell {x} {y}" for x, y in grid_cells(places.lon, places.lat, rule.cell).tolist()]
    if own is None:
        known = {name: patient_split(name, rule.fractions, rule.seed) for name in dict.fromkeys(names)}
        own = [known[name] for name in names]
    split = np.array([SPLITS.index(name) for name in own], dtype=np.int64)
    buffer = None
    if method == "spatial" and len(places):
        buffer = places.metres() if rule.buffer is None else rule.buffer
        # Test tiles all stay; validation tiles keep away from them, training tiles from both.
        for kept in (2, 1):
            lower = np.flatnonzero((split >= 0) & (split < kept))
            close = gaps(places[lower], places[np.flatnonzero(split == kept)], buffer) < buffer
            split[lower[close]] = -1
    distance = gaps(places[np.flatnonzero(split == 0)], places[np.flatnonzero(split == 2)], _FAR)
    nearest = float(distance.min()) if len(distance) and np.isfinite(distance.min()) else None
    return Assigned(names, [None if one < 0 else SPLITS[one] for one in split.tolist()], nearest, buffer, method)
