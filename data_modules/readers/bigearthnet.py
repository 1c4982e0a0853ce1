"""BigEarthNet v1 and v2: one folder per patch with one file per band; several labels per patch."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from data_modules.readers.layout import Rows, present
from data_modules.readers.satellite_layout import SatelliteLayout
from domainvl.data.manifest import Manifest, Record, Split, parse_split

_AGRICULTURE = "Land principally occupied by agriculture, with significant areas of natural vegetation"
MERGED: Mapping[str, tuple[str, ...]] = {
    "Urban fabric": ("Continuous urban fabric", "Discontinuous urban fabric"),
    "Industrial or commercial units": ("Industrial or commercial units",),
    "Arable land": ("Non-irrigated arable land", "Permanently irrigated land", "Rice fields"),
    "Permanent crops": (
        "Vineyards",
        "Fruit trees and berry plantations",
        "Olive groves",
        "Annual crops associated with permanent crops",
    ),
    "Pastures": ("Pastures",),
    "Complex cultivation patterns": ("Complex cultivation patterns",),
    _AGRICULTURE: (_AGRICULTURE,),
    "Agro-forestry areas": ("Agro-forestry areas",),
    "Broad-leaved forest": ("Broad-leaved forest",),
    "Coniferous forest": ("Coniferous forest",),
    "Mixed forest": ("Mixed forest",),
    "Natural grassland and sparsely vegetated areas": ("Natural grassland", "Sparsely vegetated areas"),
    "Moors, heathland and sclerophyllous vegetation": ("Moors and heathland", "Sclerophyllous vegetation"),
    "Transitional woodland, shrub": ("Transitional woodland/shrub",),
    "Beaches, dunes, sands": ("Beaches, dunes, sands",),
    "Inland wetlands": ("Inland marshes", "Peatbogs"),
    "Coastal wetlands": ("Salt marshes", "Salines"),
    "Inland waters": ("Water courses", "Water bodies"),
    "Marine waters": ("Coastal lagoons", "Estuaries", "Sea and ocean"),
}
"""The 19 classes, and which of the 43 each is made of; eleven of these are in none."""

_CLASS_OF = {old: new for new, olds in MERGED.items() for old in olds}


@dataclass(frozen=True)
class BigEarthNetV1(SatelliteLayout):
    """`BigEarthNet-v1.0/<patch>/<patch>_B02.tif` with `<patch>_labels_metadata.json`, and lists of patches per split.

    The lists are `train.csv`, `val.csv` and `test.csv`, or the same with `bigearthnet-` in front. Patches without any
    of the 19 classes are left out, as the authors do.
    """

    sensor: ClassVar[str | None] = "sentinel2-l2a"

    def read(self, root: Path) -> Manifest:
        """The listed patches as records."""
        top = root / "BigEarthNet-v1.0" if (root / "BigEarthNet-v1.0").is_dir() else root
        rows = Rows()
        for name in ("train", "val", "test"):
            file = _first(root, (f"{name}.csv", f"bigearthnet-{name}.csv"), "BigEarthNetV1")
            with file.open(newline="", encoding="utf-8") as table:
                for number, cells in enumerate(csv.reader(table), 1):
                    if not cells or not cells[0].strip() or cells[0].strip() in ("patch", "patch_id"):
                        continue
                    self._add(rows, root, top, cells[0].strip(), parse_split(name), number)
        return _manifest("BigEarthNet v1", root, rows)

    def _add(self, rows: Rows, root: Path, top: Path, patch: str, split: Split, number: int) -> None:
        folder = (top / patch).relative_to(root).as_posix()
        try:
            about = json.loads((top / patch / f"{patch}_labels_metadata.json").read_text(encoding="utf-8"))
            names = {_CLASS_OF[name] for name in about["labels"] if name in _CLASS_OF}
        except (OSError, ValueError, TypeError, KeyError) as error:
            rows.reject(number, folder, f"its labels cannot be read: {type(error).__name__}")
            return
        if names:
            date = str(about.get("acquisition_date", ""))
            rows.add(_record(folder, patch, names, split, date, number))


@dataclass(frozen=True)
class BigEarthNetV2(SatelliteLayout):
    """`BigEarthNet-S2/<tile>/<patch_id>/<patch_id>_B02.tif`, with labels and splits by place in `metadata.parquet`.

    Reading parquet needs pyarrow; a `metadata.csv` with the columns patch_id, split and labels (joined by `;`) is read
    without.
    """

    sensor: ClassVar[str | None] = "sentinel2-l2a"

    def read(self, root: Path) -> Manifest:
        """The rows of the metadata as records."""
        rows = Rows()
        for number, row in enumerate(_metadata(root), 2):
            patch, names = str(row["patch_id"]), set(row["labels"])
            # The patch is named by its scene and its column and row there.
            tile = patch.rsplit("_", 2)[0]
            folder = f"BigEarthNet-S2/{tile}/{patch}"
            unknown = sorted(names - MERGED.keys())
            if unknown:
                rows.reject(number, folder, f"{unknown[0][:60]!r} is none of the 19 classes")
                continue
            rows.add(_record(folder, patch, names, parse_split(str(row["split"])), _date(tile), number))
        return _manifest("BigEarthNet v2", root, rows)


def _record(folder: str, patch: str, names: Iterable[str], split: Split, date: str, number: int) -> Record:
    return Record(patch, folder, patch, present(tuple(MERGED), names), split, view=date, row=number)


def _manifest(name: str, root: Path, rows: Rows) -> Manifest:
    return Manifest(
        name,
        root,
        tuple(rows.records),
        tuple(MERGED),
        rejected=tuple(rows.rejected),
        licence="Community Data License Agreement - Permissive 1.0",
    )


def _metadata(root: Path) -> Iterable[Mapping[str, Any]]:
    plain = root / "metadata.csv"
    if plain.exists():
        with plain.open(newline="", encoding="utf-8") as table:
            for row in csv.DictReader(table):
                yield {**row, "labels": [name for name in row["labels"].split(";") if name]}
        return
    file = _first(root, ("metadata.parquet",), "BigEarthNetV2")
    try:
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise RuntimeError(
            "BigEarthNetV2: metadata.parquet needs pyarrow; install it, or save the columns patch_id, split and labels "
            "(joined by ;) as metadata.csv"
        ) from error
    yield from parquet.read_table(file, columns=["patch_id", "labels", "split"]).to_pylist()


def _date(tile: str) -> str:
    """The day in the name of a Sentinel-2 scene; empty where there is none."""
    days = [part[:8] for part in tile.split("_") if len(part) >= 8 and part[:8].isdigit()]
    return days[0] if days else ""


def _first(root: Path, names: Sequence[str], what: str) -> Path:
    for name in names:
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(f"{what}: neither of {', '.join(names)} lies in {root}; give the root of the data set")
