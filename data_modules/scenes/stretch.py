"""From a sensor's numbers to 0..255: which value of a band is black, and which is white."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_modules.scenes.sensors import Sensor
from domainvl.data.names import listing

_CHUNK = 2**16
"""Pixels that are stretched at once."""


@dataclass(frozen=True)
class Ranges:
    """Black and white of the bands that are read, in their order."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if any(not low < high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError(f"Ranges: low {self.low} is not below high {self.high} in every band")

    def eight_bit(self, values: np.ndarray) -> np.ndarray:
        """Values `[C, H, W]` of any type to uint8, rounded; what is not finite becomes 0."""
        found = np.empty(values.shape, np.uint8)
        finite = values.dtype.kind != "f"
        for band, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            scale = np.float32(255 / (high - low))
            # A few rows at a time stay in the processor's cache over all five passes.
            step = max(1, _CHUNK // values.shape[2])
            for top in range(0, values.shape[1], step):
                rows = values[band, top : top + step].astype(np.float32)
                rows -= np.float32(low)
                rows *= scale
                if not finite:
                    np.nan_to_num(rows, copy=False)
                np.clip(rows, 0, 255, out=rows)
                np.rint(rows, out=rows)
                found[band, top : top + step] = rows
        return found


Sampled = Callable[[], Iterable[np.ndarray]]
"""Values of training tiles, `[C, N]` each, without what was not seen."""


class Stretch(ABC):
    """Base of all ways to choose the ranges."""

    @abstractmethod
    def ranges(self, sensor: Sensor, bands: Sequence[str], sampled: Sampled) -> Ranges:
        """The ranges of some of a sensor's bands.

        Args:
            sensor: The sensor.
            bands: Its names of the bands that are read.
            sampled: Gives values of training tiles; called only where they are needed.
        """


class SensorRange(Stretch):
    """The sensor's own."""

    def ranges(self, sensor: Sensor, bands: Sequence[str], sampled: Sampled) -> Ranges:
        """See `Sensor.low`."""
        return Ranges(tuple(sensor.low[band] for band in bands), tuple(sensor.high[band] for band in bands))


class FixedRange(Stretch):
    """Stated by band; bands that are not read may be in it.

    Args:
        low: Value that becomes black, by band.
        high: Value that becomes white, by band.
    """

    def __init__(self, low: dict[str, float], high: dict[str, float]) -> None:
        self.low = low
        self.high = high

    def ranges(self, sensor: Sensor, bands: Sequence[str], sampled: Sampled) -> Ranges:
        """As stated."""
        return Ranges(_chosen("FixedRange.low", self.low, bands), _chosen("FixedRange.high", self.high, bands))


class ZScore(Stretch):
    """So many standard deviations around the mean; the statistics of 13 bands serve three of them.

    Args:
        mean: By band.
        std: By band.
        sigmas: Half the range.
    """

    def __init__(self, mean: dict[str, float], std: dict[str, float], sigmas: float = 2.0) -> None:
        if sigmas <= 0:
            raise ValueError(f"ZScore: sigmas is {sigmas}; it must be positive")
        self.mean = mean
        self.std = std
        self.sigmas = sigmas

    def ranges(self, sensor: Sensor, bands: Sequence[str], sampled: Sampled) -> Ranges:
        """Mean minus and plus `sigmas` standard deviations."""
        mean, std = _chosen("ZScore.mean", self.mean, bands), _chosen("ZScore.std", self.std, bands)
        pairs = list(zip(mean, std, strict=True))
        return Ranges(tuple(m - self.sigmas * s for m, s in pairs), tuple(m + self.sigmas * s for m, s in pairs))


class Percentiles(Stretch):
    """Percentiles over training tiles, measured once and kept in a file, which later runs read.

    Args:
        file: JSON file with the ranges; written when it is not there.
        low: Percentile that becomes black.
        high: Percentile that becomes white.
        tiles: Training tiles to look at, spread evenly.
    """

    def __init__(self, file: str, low: float = 2.0, high: float = 98.0, tiles: int = 256) -> None:
        if not 0 <= low < high <= 100:
            raise ValueError(f"Percentiles: low is {low} and high {high}; give two rising numbers from 0 to 100")
        if tiles < 2:
            raise ValueError(f"Percentiles: tiles is {tiles}; one tile says nothing about the others, give 2 or more")
        self.file = Path(file).expanduser()
        self.low = low
        self.high = high
        self.tiles = tiles

    def ranges(self, sensor: Sensor, bands: Sequence[str], sampled: Sampled) -> Ranges:
        """Of the file, or measured."""
        if not self.file.exists():
            values = np.concatenate(list(sampled()), axis=1)
            if not values.shape[1]:
                raise ValueError("Percentiles: no training tile has a pixel that was seen")
            low, high = np.percentile(values, [self.low, self.high], axis=1)
            draft = self.file.with_name(f".{self.file.name}.{os.getpid()}.tmp")
            kept = {band: [float(a), float(b)] for band, a, b in zip(bands, low, high, strict=True)}
            draft.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
            os.replace(draft, self.file)
        kept = json.loads(self.file.read_text(encoding="utf-8"))
        if not isinstance(kept, dict) or any(not isinstance(pair, list) or len(pair) != 2 for pair in kept.values()):
            raise ValueError(f"Percentiles: {self.file} holds no ranges; delete it to have them measured again")
        found = _chosen(f"Percentiles: {self.file.name}", kept, bands)
        return Ranges(tuple(float(low) for low, _ in found), tuple(float(high) for _, high in found))


def _chosen(what: str, table: Mapping[str, object], bands: Sequence[str]) -> tuple:
    missing = [band for band in bands if band not in table]
    if missing:
        raise ValueError(f"{what} has no value for band {missing[0]!r}; it has {listing(table)}")
    return tuple(table[band] for band in bands)
