"""CT-RATE, as it is downloaded: chest CT with reports and 18 labels, several reconstructions per scan.

Version 1 (`dataset/train`, `dataset/valid`) has blank headers: spacing, place, directions and rescale stand in the
metadata table alone. Version 2 (`train_fixed`, `valid_fixed`) has them in the files and holds Hounsfield units; the
table applied to it again is the mistake that is made most with this data set, so each version reads one of the two.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_modules.readers.layout import LabelReader, Rows
from data_modules.readers.table import Table, find
from data_modules.readers.volume_layout import VolumeLayout
from data_modules.readers.voxels import Header
from domainvl.data.labels import Label
from domainvl.data.manifest import Manifest, Record, Split
from domainvl.data.names import listing
from domainvl.data.texts.reports import clean

_SPLITS: tuple[tuple[str, str, Split], ...] = (("train", "train", "train"), ("valid", "validation", "test"))
"""Name of the folder, name in the tables of reports and metadata, and what the split is to us."""

_GEOMETRY = (
    "XYSpacing",
    "ZSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "RescaleSlope",
    "RescaleIntercept",
)


@dataclass(frozen=True)
class CtRate(VolumeLayout):
    """`dataset/train_fixed/train_53/train_53_a/train_53_a_1.nii.gz` and tables by VolumeName.

    Its validation split is what everybody reports, so it is the test split here; a tenth of the training patients
    validate. Folders may lie in `dataset/` or in the root, tables in their own folders or in the root.

    Attributes:
        version: v1 (headers from the metadata table) or v2 (`_fixed`).
        reconstructions: All of a scan's, or its first one.
    """

    version: Literal["v1", "v2"] = "v2"
    reconstructions: Literal["all", "first"] = "all"

    def __post_init__(self) -> None:
        if self.version not in ("v1", "v2"):
            raise ValueError(f"CtRate: version {self.version!r} is not one of v1, v2")
        if self.reconstructions not in ("all", "first"):
            raise ValueError(f"CtRate: reconstructions {self.reconstructions!r} is not one of all, first")

    def read(self, root: Path) -> Manifest:
        """The tables' rows as records."""
        rows = Rows()
        classes: tuple[str, ...] | None = None
        top = root / "dataset" if (root / "dataset").is_dir() else root
        there = []
        for folder, name, split in _SPLITS:
            place = top / (f"{folder}_fixed" if self.version == "v2" else folder)
            if not place.is_dir():
                continue
            there.append(folder)
            table = _table(root, "multi_abnormality_labels", f"{folder}_predicted_labels.csv")
            found = tuple(column for column in table.columns if column != "VolumeName")
            if classes is not None and found != classes:
                raise ValueError(f"CT-RATE: {table.path.name} names other classes than the training table")
            classes = found
            texts = _texts(_table(root, "radiology_text_reports", f"{name}_reports.csv"))
            headers = self._headers(root, name)
            self._add(rows, table, place.relative_to(root).as_posix(), split, texts, headers)
        if classes is None:
            fixed = "_fixed" if self.version == "v2" else ""
            raise FileNotFoundError(
                f"CT-RATE: neither train{fixed} nor valid{fixed} lies in {top}; it holds "
                f"{listing(sorted(entry.name for entry in top.iterdir())[:20])}. Give the root of the data set, and "
                "the version that was downloaded"
            )
        return Manifest(
            name=f"CT-RATE {self.version}",
            root=root,
            records=tuple(rows.records),
            classes=classes,
            rejected=tuple(rows.rejected),
            carve=0.1 if "train" in there else 0.0,
            licence="CC BY-NC-SA 4.0, no commercial use; cite Hamamci et al. 2024",
        )

    def headers(self, root: Path) -> Mapping[str, Header]:
        """Version 1: what the metadata table says, by path. Version 2: nothing."""
        top = "dataset/" if (root / "dataset").is_dir() else ""
        found: dict[str, Header] = {}
        for folder, name, _ in _SPLITS:
            if self.version == "v1" and (root / top / folder).is_dir():
                for volume, header in self._headers(root, name).items():
                    if isinstance(header, Header):
                        found[_path(f"{top}{folder}", volume)] = header
        return found

    def _headers(self, root: Path, name: str) -> dict[str, Header | str]:
        """What the table says about every volume, or why that is no geometry."""
        if self.version == "v2":
            return {}
        table = _table(root, "metadata", f"{name}_metadata.csv")
        found: dict[str, Header | str] = {}
        for number, (volume, *cells) in table.rows("VolumeName", *_GEOMETRY):
            try:
                found[volume] = _header(cells)
            except (ValueError, SyntaxError, TypeError):
                found[volume] = f"{table.path.name} row {number} gives no geometry, and the file has none"
        return found

    def _add(
        self,
        rows: Rows,
        table: Table,
        place: str,
        split: Split,
        texts: Mapping[str, tuple[str, str]],
        headers: Mapping[str, Header | str],
    ) -> None:
        classes = [column for column in table.columns if column != "VolumeName"]
        read = LabelReader(classes)
        seen: set[str] = set()
        for number, (volume, *cells) in table.rows("VolumeName", *classes):
            parts = volume.removesuffix(".nii.gz").split("_")
            if len(parts) != 4 or not volume.endswith(".nii.gz") or "/" in volume:
                rows.reject(number, volume[:60], "VolumeName is not of the form train_53_a_1.nii.gz")
                continue
            path, scan = _path(place, volume), "_".join(parts[:3])
            if self.reconstructions == "first" and scan in seen:
                continue
            header = headers.get(volume, "the metadata table has no row for it, and the file has no geometry")
            if self.version == "v1" and isinstance(header, str):
                rows.reject(number, path, header)
                continue
            try:
                labels: tuple[Label, ...] = read(cells)
            except ValueError as error:
                rows.reject(number, path, str(error))
                continue
            seen.add(scan)
            findings, impression = texts.get(volume, ("", ""))
            patient = "_".join(parts[:2])
            rows.add(Record(volume, path, patient, labels, split, scan, parts[3], number, "", findings, impression))


def _path(place: str, volume: str) -> str:
    patient, scan, reconstruction = volume.removesuffix(".nii.gz").rsplit("_", 2)
    return f"{place}/{patient}/{patient}_{scan}/{patient}_{scan}_{reconstruction}.nii.gz"


def _table(root: Path, folder: str, name: str) -> Table:
    place = next((top for top in (root / folder, root / "dataset" / folder) if top.is_dir()), root)
    return Table(find(place, [name], "CT-RATE"))


def _texts(table: Table) -> dict[str, tuple[str, str]]:
    """Findings and impression by volume; the table writes `Not given.` for nothing."""
    return {
        volume: (_text(findings), _text(impression))
        for _, (volume, findings, impression) in table.rows("VolumeName", "Findings_EN", "Impressions_EN")
    }


def _text(cell: str) -> str:
    text = clean(cell)
    return "" if text.rstrip(".").lower() in ("not given", "nan") else text


def _header(cells: list[str]) -> Header:
    plane, between, place, cosines, slope, intercept = (ast.literal_eval(cell) for cell in cells)
    numbers = [float(value) for value in (*plane, between, *place, *cosines, slope, intercept)]
    if (len(plane), len(place), len(cosines)) != (2, 3, 6) or not all(map(math.isfinite, numbers)):
        raise ValueError
    return Header(
        (float(plane[0]), float(plane[1]), float(between)),
        tuple(map(float, place)),  # type: ignore[arg-type]
        tuple(map(float, cosines)),  # type: ignore[arg-type]
        float(slope),
        float(intercept),
    )
