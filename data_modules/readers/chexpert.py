"""CheXpert 1.0, full size or small, and CheXpert Plus."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from data_modules.readers.layout import CHEXPERT_CLASSES, LabelReader, Layout, Rows
from data_modules.readers.table import Table, find
from domainvl.data.labels import Label
from domainvl.data.manifest import Manifest, Record, Split, parse_split
from domainvl.data.names import listing
from domainvl.data.paths import inside
from domainvl.data.texts.reports import clean

_LICENCE = "Stanford University Dataset Research Use Agreement; not for commercial use, not to be passed on"
_PATIENT = re.compile(r"patient\d+")
_STUDY = re.compile(r"study\d+")
_CARVE = 0.1


@dataclass(frozen=True)
class CheXpert(Layout):
    """`train.csv`, `valid.csv` and, if it is there, `test.csv`; the root may be the folder above `CheXpert-v1.0*`.

    Without the test set the official validation set is the test split, as in most papers, and a tenth of the training
    patients (by `split`) is the validation split.
    """

    def read(self, root: Path) -> Manifest:
        """The tables' rows as records."""
        base = _base(root)
        rows = Rows()
        tables: list[tuple[Split, Path]] = [("train", find(base, ["train.csv"], "CheXpert"))]
        tables.append(("validate", find(base, ["valid.csv"], "CheXpert")))
        tables += [("test", path) for name in ("test.csv", "test_labels.csv") if (path := base / name).exists()][:1]
        for split, path in tables:
            self._add(rows, base, split, Table(path))
        return Manifest(
            name="CheXpert",
            root=base,
            records=valid_becomes_test(rows.records),
            classes=CHEXPERT_CLASSES,
            rejected=tuple(rows.rejected),
            carve=_CARVE,
            licence=_LICENCE,
        )

    def _add(self, rows: Rows, base: Path, split: Split, table: Table) -> None:
        read = LabelReader(CHEXPERT_CLASSES)
        view_column = ["AP/PA"] if "AP/PA" in table.columns else []
        for number, (name, *cells) in table.rows("Path", *CHEXPERT_CLASSES, *view_column):
            view = cells.pop() if view_column else ""
            # The column holds the name that the root folder had at Stanford, whatever it is called here.
            name = name.partition("/")[2] if name.startswith("CheXpert") else name
            path = inside(base, name, f"{table.path.name}: row {number}")
            patient = _PATIENT.search(path)
            if patient is None:
                rows.reject(number, path, "the path names no patient")
                continue
            try:
                labels = read(cells)
            except ValueError as error:
                rows.reject(number, path, str(error))
                continue
            rows.add(Record(path, path, patient[0], labels, split, _study(path), view or _view_of(path), row=number))


@dataclass(frozen=True)
class CheXpertPlus(Layout):
    """`df_chexpert_plus_240401.csv` with report sections, CheXbert labels as JSON lines, images as PNG, JPEG or DICOM.

    Attributes:
        labels_from: The section that CheXbert read: `report`, `findings` or `impression` (`<section>_fixed.json`).
        images: `png`, which also finds the original JPEG, or `dicom`.
    """

    labels_from: Literal["report", "findings", "impression"] = "impression"
    images: Literal["png", "dicom"] = "png"

    def read(self, root: Path) -> Manifest:
        """The table joined with the labels on the image path."""
        table = Table(find(root, ["df_chexpert_plus_*.csv"], "CheXpert Plus"))
        labels, problems = _json_labels(find(root, [f"**/{self.labels_from}_fixed.json"], "CheXpert Plus labels"))
        names = ("path_to_image", "path_to_dcm", "frontal_lateral", "ap_pa", "deid_patient_id")
        texts = ("section_findings", "section_impression", "split")
        blank = (Label.BLANK,) * len(CHEXPERT_CLASSES)
        rows = Rows()
        for number, cells in table.rows(*names, *texts):
            image, dicom, side, view, patient, findings, impression, split = cells
            path = inside(root, image if self.images == "png" else dicom, f"{table.path.name}: row {number}")
            if not patient or image in problems:
                rows.reject(number, path, problems.get(image, "deid_patient_id: the patient is missing"))
                continue
            rows.add(
                Record(
                    id=image,
                    path=path,
                    patient=patient,
                    labels=labels.get(image, blank),
                    split=parse_split(split),
                    study=_study(image),
                    view=view or side,
                    row=number,
                    findings=clean(findings),
                    impression=clean(impression),
                )
            )
        return Manifest(
            name="CheXpert Plus",
            root=root,
            records=valid_becomes_test(_placed(root, rows.records)),
            classes=CHEXPERT_CLASSES,
            rejected=tuple(rows.rejected),
            carve=_CARVE,
            licence=_LICENCE,
            warnings=("it contains CheXpert; do not test on one what was trained on the other",),
        )


def valid_becomes_test(records: Sequence[Record]) -> tuple[Record, ...]:
    """Without a test set of its own, the official validation set is what papers test on."""
    if any(record.split == "test" for record in records):
        return tuple(records)
    return tuple(replace(one, split="test") if one.split == "validate" else one for one in records)


def _base(root: Path) -> Path:
    if (root / "train.csv").exists():
        return root
    below = sorted(folder for folder in root.glob("CheXpert-v1.0*") if (folder / "train.csv").exists())
    return below[0] if below else root


def _study(path: str) -> str:
    patient, study = _PATIENT.search(path), _STUDY.search(path)
    return f"{patient[0]}/{study[0]}" if patient and study else ""


def _view_of(path: str) -> str:
    return next((view for view in ("frontal", "lateral") if view in path.rpartition("/")[2]), "")


def _json_labels(path: Path) -> tuple[dict[str, tuple[Label, ...]], dict[str, str]]:
    """Labels by image, and what is wrong with the others. `null` and NaN are how the file writes a blank."""
    read = LabelReader(CHEXPERT_CLASSES)
    labels: dict[str, tuple[Label, ...]] = {}
    problems: dict[str, str] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path.name}: line {number} is no JSON: {error.msg}") from error
            missing = {"path_to_image", *CHEXPERT_CLASSES} - row.keys()
            if missing:
                raise ValueError(f"{path.name}: line {number} has no {listing(sorted(missing))}")
            cells = ["" if row[name] is None or row[name] != row[name] else str(row[name]) for name in CHEXPERT_CLASSES]
            try:
                labels[row["path_to_image"]] = read(cells)
            except ValueError as error:
                problems[row["path_to_image"]] = f"{path.name} line {number}: {error}"
    return labels, problems


def _placed(root: Path, records: Sequence[Record]) -> list[Record]:
    """Paths as they lie here: the table says .jpg where the download holds PNG, and archives unpack into a folder."""
    tried = [(folder, suffix) for folder in ("", "PNG/", "DICOM/") for suffix in ("", ".png")]

    def placed(path: str, folder: str, suffix: str) -> str:
        return folder + (path if not suffix else str(Path(path).with_suffix(suffix)))

    for folder, suffix in tried:
        if any((root / placed(record.path, folder, suffix)).exists() for record in records[:100]):
            return [replace(record, path=placed(record.path, folder, suffix)) for record in records]
    return list(records)
