"""Copies of satellite pictures across splits: how many of each kind are found, and how many others are taken for one.

    python examples/benchmarks/satellite_copies.py --seed 41

Draws the procedural set with a seed of its own (forests, fields, lakes, roofs, roads) and takes the pictures of two
thirds of its places as training data. Of these, every --every-th is copied in each of the ways below and put beside the
pictures of the other places. False alarms are counted where nothing is planted: places against other places, tiles
against their neighbours in the same scene, and tiles against the same place at another date.
"""

from __future__ import annotations

import argparse
import csv
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from domainvl.evaluation.image_copies import Fingerprints, copies, identical
from domainvl.samples import write

Picture = NDArray[np.uint8]
Tile = tuple[str, int, int]
"""Place, left and top."""


def saved(picture: Picture, quality: int | None) -> Picture:
    """As a JPEG, or as a PNG."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG" if quality is None else "JPEG", quality=quality or 75)
    return np.asarray(Image.open(file))


def cut(picture: Picture, number: int, each: bool = False) -> Picture:
    """Without 5 % of width and height somewhere, or without 5 % on each of the four sides; at its old size again."""
    side = picture.shape[0]
    lost = round(0.05 * side)
    first = (lost, lost) if each else (number % (lost + 1), 2 * number % (lost + 1))
    kept = side - lost * (2 if each else 1)
    part = picture[first[0] : first[0] + kept, first[1] : first[1] + kept]
    return np.asarray(Image.fromarray(part).resize((side, side), Image.Resampling.BICUBIC))


def one_side(picture: Picture, number: int) -> Picture:
    """Without 5 % on one side, at its old size again."""
    side, lost = picture.shape[0], round(0.05 * picture.shape[0])
    part = np.rot90(np.rot90(picture, number)[lost:], -number)
    return np.asarray(Image.fromarray(np.ascontiguousarray(part)).resize((side, side), Image.Resampling.BICUBIC))


def half(picture: Picture) -> Picture:
    return np.asarray(Image.fromarray(picture).resize((picture.shape[1] // 2, picture.shape[0] // 2)))


EDITS: dict[str, Callable[[Picture, int], Picture]] = {
    "renamed, or saved as PNG": lambda picture, number: saved(picture, None),
    "JPEG quality 95": lambda picture, number: saved(picture, 95),
    "JPEG quality 75": lambda picture, number: saved(picture, 75),
    "JPEG quality 50": lambda picture, number: saved(picture, 50),
    "half the size": lambda picture, number: half(picture),
    "cropped by 5 % somewhere": cut,
    "cropped by 5 % on one side": one_side,
    "cropped by 5 % on each side": lambda picture, number: cut(picture, number, each=True),
    "cropped somewhere, quality 75": lambda picture, number: saved(cut(picture, number), 75),
    "cropped somewhere, quality 50": lambda picture, number: saved(cut(picture, number), 50),
    "cropped on one side, quality 50": lambda picture, number: saved(one_side(picture, number), 50),
    "cropped on each side, quality 50": lambda picture, number: saved(cut(picture, number, each=True), 50),
    "turned by a quarter or two": lambda picture, number: np.rot90(picture, 1 + number % 3).copy(),
    "mirrored, quality 75": lambda picture, number: saved(picture[:, ::-1].copy(), 75),
    "turned and cropped": lambda picture, number: cut(np.rot90(picture, 1 + number % 3).copy(), number),
}


def pictures(folder: Path) -> Iterator[tuple[str, Tile, Picture]]:
    """Date, tile and true colours of all tiles of a set."""
    import rasterio

    with (folder / "tiles.csv").open() as file:
        rows = list(csv.DictReader(file))
    for image in sorted({row["image"] for row in rows}):
        with rasterio.open(folder / image) as scene:
            bands = scene.read([3, 2, 1])
        colours = np.rint((bands / 3000).clip(0, 1).transpose(1, 2, 0) * 255).astype(np.uint8)
        for row in (row for row in rows if row["image"] == image):
            left, top, width, height = (int(row[name]) for name in ("left", "top", "width", "height"))
            yield row["date"], (row["place"], left, top), colours[top : top + height, left : left + width]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=41)
    parser.add_argument("--places", type=int, default=9)
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    dates: dict[str, dict[Tile, Picture]] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = write("satellite", Path(folder) / "set", seed=options.seed, patients=options.places)
        for date, tile, picture in pictures(made):
            dates.setdefault(date, {})[tile] = picture
    early, late = (dates[date] for date in sorted(dates))
    places = sorted({place for place, _, _ in early})
    learned = places[: len(places) * 2 // 3]
    train = [picture for (place, _, _), picture in early.items() if place in learned]
    test = [picture for (place, _, _), picture in early.items() if place not in learned]
    known = Fingerprints.of(train)

    began = time.process_time()
    alarms = len(copies(known, Fingerprints.of(test)))
    print(f"other places: {alarms} of {len(test)} (against {len(train)}, {time.process_time() - began:.1f} s of CPU)")
    black = {tile: picture for tile, picture in early.items() if (tile[1] + tile[2]) // 96 % 2}
    white = [picture for tile, picture in early.items() if tile not in black]
    alarms = len(copies(Fingerprints.of(white), Fingerprints.of(black.values())))
    print(f"neighbours in the same scene: {alarms} of {len(black)}")
    both = sorted(early.keys() & late.keys())
    alarms = len(copies(*(Fingerprints.of(one[tile] for tile in both) for one in (early, late))))
    print(f"the same place at another date: {alarms} of {len(both)}")

    sources = range(0, len(train), options.every)
    for name, edit in EDITS.items():
        planted = Fingerprints.of([*(edit(train[row], row) for row in sources), *test])
        found = {other: one for one, other in (*identical(known, planted), *copies(known, planted))}
        right = sum(found.get(place) == row for place, row in enumerate(sources))
        print(f"{name}: {right} of {len(sources)} found; {len(found) - right} others", flush=True)


if __name__ == "__main__":
    main()
