"""One place over time: its tiles by date, and which dates there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_modules.scenes.decoder import SceneDecoder
from data_modules.scenes.plan import ScenePlan
from domainvl.data.manifest import Record
from domainvl.data.rejects import UnreadableImage

_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class Series:
    """Tiles of one place.

    Attributes:
        place: Longitude and latitude of the middle.
        rows: Positions of the records, earliest first.
        days: Their dates.
    """

    place: tuple[float, float]
    rows: tuple[int, ...]
    days: tuple[date, ...]


def series_of(records: Sequence[Record], plan: ScenePlan) -> list[Series]:
    """Tiles that show the same place, by date (`Record.view`, ISO).

    Args:
        records: Tiles, in the plan's order.
        plan: Where they lie.
    """
    found: dict[tuple[float, float], list[tuple[date, int]]] = {}
    for row, record in enumerate(records):
        try:
            day = date.fromisoformat(record.view[:10])
        except ValueError as error:
            raise ValueError(
                f"series_of: row {record.row} has no date like 2024-07-31; name the date column"
            ) from error
        # A hundred-thousandth of a degree is a metre, less than any pixel's.
        place = (round(float(plan.places.lon[row]), 5), round(float(plan.places.lat[row]), 5))
        found.setdefault(place, []).append((day, row))
    series = []
    for place, seen in found.items():
        seen.sort()
        series.append(Series(place, tuple(row for _, row in seen), tuple(day for day, _ in seen)))
    return series


class SeriesSet(Dataset[dict[str, Tensor]]):
    """Places as stacks of tiles.

    An item holds `image` uint8 `[T, 3, S, S]`, `mask` bool `[T]` and `day` long `[T]` (days since 1970). Dates that are
    missing, or on which the tile was not seen, are False in the mask and empty in the image.

    Args:
        series: The places.
        records: All tiles.
        root: Folder that record paths are relative to.
        decoder: How a tile is read.
        length: T; of longer series the last dates count.
    """

    def __init__(
        self, series: Sequence[Series], records: Sequence[Record], root: Path, decoder: SceneDecoder, length: int
    ) -> None:
        if length < 1:
            raise ValueError(f"SeriesSet: length is {length}; give 1 date or more")
        self.series = list(series)
        self.records = records
        self.root = root
        self.decoder = decoder
        self.length = length

    def __len__(self) -> int:
        return len(self.series)

    def __getitem__(self, item: int) -> dict[str, Tensor]:
        one = self.series[item]
        image = torch.zeros(self.length, *self.decoder.shape, dtype=torch.uint8)
        mask = torch.zeros(self.length, dtype=torch.bool)
        day = torch.zeros(self.length, dtype=torch.long)
        dated = list(zip(one.rows, one.days, strict=True))[-self.length :]
        for place, (row, when) in enumerate(dated):
            day[place] = (when - _EPOCH).days
            try:
                image[place] = self.decoder.read(self.records[row], self.root)
            except UnreadableImage:
                # Clouds and orbits leave gaps in every series; the mask says where.
                continue
            mask[place] = True
        return {"image": image, "mask": mask, "day": day}


def pooled(features: Tensor, mask: Tensor) -> Tensor:
    """The mean direction over time, `[B, D]`; zero for places that were never seen.

    Args:
        features: `[B, T, D]`.
        mask: Which dates count, `[B, T]`.
    """
    unit = torch.nn.functional.normalize(features, dim=-1)
    return torch.nn.functional.normalize(torch.where(mask[..., None], unit, 0).sum(dim=1), dim=-1)
