"""Procedural satellite scenes: GeoTIFFs in two UTM zones and two seasons, land cover, tile labels and captions.

`--patients` is the number of places. The same place in another season has the same grid, so its tiles are the same.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domainvl.samples.satellite.captions import sentences
from domainvl.samples.satellite.terrain import COVERS, HIGHWAY, RIVER, SEASONS, Land, colours, make_land

__all__ = ["PATIENTS", "generate"]

PATIENTS = 16
"""Places of a full set."""

TILE = 96
TILES = 10
"""Tiles along the side of a place."""

GROUND = 10.0
"""Metres of a pixel."""

_BANDS = {"B02": 3000, "B03": 3000, "B04": 3000, "B08": 5000}
_STEP = 20
"""Values are multiples of it, as noise of the lowest bits only fills the disk."""

_ZONES = ((32632, 500_000.0, 5_300_000.0), (32633, 320_000.0, 5_420_000.0))
_DATES = dict(zip(SEASONS, ("2024-07-06", "2024-10-24"), strict=True))
CAPTIONS = ("caption", *(f"caption_{number}" for number in range(2, 6)))
"""Columns of what is said of a tile."""

_COLUMNS = ("image", "left", "top", "width", "height", "place", "date", "class", *CAPTIONS)
_LINE_SHARE = {RIVER: 0.05, HIGHWAY: 0.035}
_PURE = 0.75

_README = """\
# Procedural satellite scenes

Drawn by `python -m domainvl sample satellite` with seed {seed}: {places} made-up places of {side:.1f} km, {scenes}
scenes, {tiles} labelled tiles. No such land exists, and a model that reads these images does not read real ones.

- `scenes/<place>_<date>.tif`: B02, B03, B04 and B08 as uint16 reflectance (x 10000), {ground:.0f} m, in
  EPSG:32632 or 32633, tiled, with overviews; 0 is nodata, which a slanted edge of some scenes is.
- `landcover/<place>.tif`: what lies where, 1 to {covers} in the order {names}.
- `tiles.csv`: windows of {tile} pixels with one class: river or highway where one crosses, else the cover of three
  quarters of the tile, and five captions. Other tiles are not listed.
- `chips/*.jpg` and `dataset.json`: true-colour pictures of summer tiles with five captions each, in the form of RSICD;
  splits keep places apart.

Licence: CC0 1.0, public domain.
"""


@dataclass(frozen=True)
class _Place:
    name: str
    crs: int
    left: float
    top: float


def generate(folder: Path, *, seed: int, patients: int) -> Iterator[None]:
    """Writes the set into an existing empty folder; yields once per place."""
    for name in ("scenes", "landcover", "chips"):
        (folder / name).mkdir()
    rows: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    for number in range(patients):
        # A stream of its own for each place: no place depends on how many come before.
        rng = np.random.default_rng([seed, 7, number])
        place = _place(number)
        land = make_land(rng, TILE * TILES, TILE)
        _write_raster(folder / f"landcover/{place.name}.tif", land.cover[None], place, ("landcover",), nodata=None)
        tiles = _labelled(land)
        words = {tile: sentences(rng, named) for tile, (_, named) in tiles.items()}
        for season in SEASONS:
            image = _digital(colours(rng, land, season, TILE))
            seen = _swath(rng, image.shape[1]) if rng.random() < 0.3 else None
            if seen is not None:
                image[:, ~seen] = 0
            scene = f"scenes/{place.name}_{_DATES[season]}.tif"
            _write_raster(folder / scene, image, place, tuple(_BANDS), nodata=0)
            for (row, column), (cover, _) in tiles.items():
                where = (slice(row * TILE, row * TILE + TILE), slice(column * TILE, column * TILE + TILE))
                if seen is not None and seen[where].mean() < 0.9:
                    continue
                text = words[row, column]
                rows.append(_row(scene, row, column, place, season, cover, text))
                if season == SEASONS[0]:
                    name = f"{cover.replace(' ', '')}_{place.name}_{row}_{column}.jpg"
                    _write_chip(folder / "chips" / name, image[(slice(None), *where)])
                    entries.append(_entry(name, text, number, patients, len(entries)))
        yield
    with (folder / "tiles.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    (folder / "dataset.json").write_text(json.dumps({"dataset": "samples", "images": entries}) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(
        _README.format(
            seed=seed,
            places=patients,
            side=TILE * TILES * GROUND / 1000,
            scenes=patients * len(SEASONS),
            tiles=len(rows),
            ground=GROUND,
            covers=len(COVERS),
            names=", ".join(COVERS),
            tile=TILE,
        ),
        encoding="utf-8",
    )


def _place(number: int) -> _Place:
    crs, left, top = _ZONES[number % 2]
    return _Place(f"place{number:02d}", crs, left + 40_000 * (number // 2 % 4), top - 40_000 * (number // 8))


def _labelled(land: Land) -> dict[tuple[int, int], tuple[str, list[str]]]:
    """Class of the tiles that have one, and what is in them, the most of it first, by row and column."""
    found = {}
    for row in range(TILES):
        for column in range(TILES):
            here = land.cover[row * TILE : row * TILE + TILE, column * TILE : column * TILE + TILE]
            shares = np.bincount(here.ravel(), minlength=len(COVERS) + 1) / here.size
            lines = [line for line, least in _LINE_SHARE.items() if shares[line] >= least]
            ground = int(shares[1:RIVER].argmax()) + 1
            pure = shares[ground] >= _PURE * (1 - shares[RIVER:].sum())
            if len(lines) > 1 or not pure or (not lines and shares[RIVER:].sum() > 0.01):
                continue
            named = [COVERS[line - 1] for line in lines] + [COVERS[ground - 1]]
            found[row, column] = (named[0], named)
    return found


def _digital(image: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Shares of the range to reflectance; never 0, which means nodata."""
    white = np.array(list(_BANDS.values()), np.float32)[:, None, None]
    return (np.rint(np.clip(image * white, _STEP, 10_000) / _STEP) * _STEP).astype(np.uint16)


def _swath(rng: np.random.Generator, side: int) -> NDArray[np.bool_]:
    """What an orbit that ends inside the place has seen, `[H, W]`."""
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    seen: NDArray[np.bool_] = columns + 0.2 * rows < rng.uniform(0.75, 1.0) * side
    return seen


def _row(scene: str, row: int, column: int, place: _Place, season: str, cover: str, texts: list[str]) -> dict[str, Any]:
    cells = (scene, column * TILE, row * TILE, TILE, TILE, place.name, _DATES[season], cover, *texts)
    return dict(zip(_COLUMNS, cells, strict=True))


def _entry(name: str, texts: list[str], number: int, places: int, image: int) -> dict[str, Any]:
    """One image of RSICD's JSON; a fifth of the places is for testing, a tenth for validation."""
    share = (number + 0.5) / places
    split = "test" if share > 0.8 else "val" if share > 0.7 else "train"
    first = image * len(texts)
    said = [
        {"raw": text, "tokens": text.rstrip(".").lower().split(), "imgid": image, "sentid": first + place}
        for place, text in enumerate(texts)
    ]
    return {
        "filename": name,
        "imgid": image,
        "split": split,
        "sentids": [one["sentid"] for one in said],
        "sentences": said,
    }


def _write_chip(path: Path, bands: NDArray[np.uint16]) -> None:
    from PIL import Image

    picture = (bands[2::-1].astype(np.float32) / 3000).clip(0, 1).transpose(1, 2, 0) * 255
    Image.fromarray(np.rint(picture).astype(np.uint8)).save(path, quality=90)


def _write_raster(
    path: Path, bands: NDArray[Any], place: _Place, names: tuple[str, ...], *, nodata: float | None
) -> None:
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.transform import from_origin

    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=bands.shape[2],
        height=bands.shape[1],
        count=bands.shape[0],
        dtype=bands.dtype.name,
        crs=f"EPSG:{place.crs}",
        transform=from_origin(place.left, place.top, GROUND, GROUND),
        nodata=nodata,
        tiled=True,
        blockxsize=192,
        blockysize=192,
        compress="deflate",
        zlevel=1,
        predictor=2,
    ) as dataset:
        dataset.write(bands)
        for number, name in enumerate(names, 1):
            dataset.set_band_description(number, name)
        dataset.build_overviews([2, 4], Resampling.nearest if bands.dtype == np.uint8 else Resampling.average)
