"""Procedural chest X-rays: images, reports, labels and where each finding lies, as files on disk.

``studies.csv`` has one row per image, ``reports/`` one text per study, ``truth.json`` the boxes of what is really
drawn. Labels are what the report says: a doubted finding may or may not be in the pixels, as in any archive, and only
``truth.json`` knows. What a report denies or leaves out is never drawn.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from domainvl.samples.canvas import Field
from domainvl.samples.cxr.anatomy import draw_body
from domainvl.samples.cxr.cases import FINDINGS, NO_FINDING, Label, Patient, Study, draw_patients
from domainvl.samples.cxr.dicom import save_dicom
from domainvl.samples.cxr.planting import Radiograph, radiograph
from domainvl.samples.cxr.reports import phrase, report, severity_word

__all__ = ["FINDINGS", "NO_FINDING", "PATIENTS", "generate"]

PATIENTS = 400
"""Patients of a full set."""

COLUMNS = ("image", "patient", "study", "view", "split", NO_FINDING, *FINDINGS, "report")

BOX_COLUMNS = ("image", "category_name", "label_text", "x", "y", "w", "h", "image_width", "image_height")

_DICOM_EVERY = 10
_JPEG_QUALITY = 90

_README = """\
# Procedural chest X-rays

Drawn by `python -m domainvl sample cxr` with seed {seed}: {patients} made-up patients, {images} images. Nobody
was X-rayed, nothing here is of any clinical use, and a model that reads these images does not read real ones.

- `studies.csv`: one row per image; `split` keeps patients apart; a finding is `1` (stated), `0` (denied), `-1`
  (doubted) or blank (not mentioned), as in CheXpert. `{no_finding}` is `1` when nothing is stated or doubted.
- `images/<patient>/<study>/`: 8-bit grey JPEG; every tenth image is DICOM (12 bits, MONOCHROME1 and 2, window).
- `reports/<patient>/<study>.txt`: one report per study.
- `truth.json`: for each image the lesions that are really drawn, with side, zone, severity and
  `box` = [left, top, right, bottom] in pixels, right and bottom exclusive.
- `boxes.csv`: phrases of the reports' impressions and where they are true, in the columns of MS-CXR.

Right and left are the patient's: the right lung is on the left of a frontal image.

Licence: CC0 1.0, public domain.
"""


def generate(folder: Path, *, seed: int, patients: int) -> Iterator[None]:
    """Writes the set into an existing empty folder; yields once per patient."""
    rows: list[dict[str, str]] = []
    boxes: list[dict[str, Any]] = []
    truth: dict[str, Any] = {}
    for patient in draw_patients(seed, patients):
        # A stream of its own for each patient: no patient's pixels depend on how many come before.
        rng = np.random.default_rng([seed, 3, int(patient.name[1:])])
        body = draw_body(rng)
        for study in patient.studies:
            text = f"reports/{patient.name}/{study.name}.txt"
            _write_text(folder / text, report(rng, study))
            for number, view in enumerate(study.views, start=1):
                image = radiograph(rng, body, study, view)
                stem = f"images/{patient.name}/{study.name}/view{number}_{view.lower()}"
                name = _save(folder, stem, image, patient, study, seed=seed, index=len(rows))
                rows.append(_row(name, patient, study, view, text))
                truth[name] = _truth(image)
                boxes += _boxes(name, study, image)
        yield
    _write_table(folder / "studies.csv", COLUMNS, rows)
    _write_table(folder / "boxes.csv", BOX_COLUMNS, boxes)
    _write_text(folder / "truth.json", json.dumps(truth, indent=1) + "\n")
    _write_text(
        folder / "README.md",
        _README.format(seed=seed, patients=patients, images=len(rows), no_finding=NO_FINDING),
    )


def _row(name: str, patient: Patient, study: Study, view: str, text: str) -> dict[str, str]:
    labels = {finding: study.labels[finding].value for finding in FINDINGS}
    return {
        "image": name,
        "patient": patient.name,
        "study": study.name,
        "view": view,
        "split": patient.split,
        NO_FINDING: "1" if study.normal else "",
        **labels,
        "report": text,
    }


def _truth(image: Radiograph) -> dict[str, Any]:
    found: dict[str, list[dict[str, Any]]] = {}
    for lesion, box in image.boxes:
        found.setdefault(lesion.finding, []).append(
            {"box": list(box), "side": lesion.side, "zone": lesion.zone, "severity": severity_word(lesion)}
        )
    height, width = image.pixels.shape
    return {"size": [width, height], "findings": found}


def _boxes(name: str, study: Study, image: Radiograph) -> list[dict[str, Any]]:
    """What is drawn and stated, with the words of the impression; two lesions of one finding share a phrase."""
    height, width = image.pixels.shape
    return [
        {
            "image": name,
            "category_name": lesion.finding,
            "label_text": phrase(study.lesions_of(lesion.finding)),
            "x": left,
            "y": top,
            "w": right - left,
            "h": bottom - top,
            "image_width": width,
            "image_height": height,
        }
        for lesion, (left, top, right, bottom) in image.boxes
        if study.labels[lesion.finding] is Label.POSITIVE
    ]


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as table:
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _save(folder: Path, stem: str, image: Radiograph, patient: Patient, study: Study, *, seed: int, index: int) -> str:
    """Saves as DICOM or JPEG and gives the path relative to ``folder``."""
    (folder / stem).parent.mkdir(parents=True, exist_ok=True)
    if index % _DICOM_EVERY == _DICOM_EVERY // 2:
        name = f"{stem}.dcm"
        save_dicom(
            folder / name,
            image.pixels,
            patient=patient.name,
            study=study.name,
            view=image.view,
            seed=seed,
            inverted=index // _DICOM_EVERY % 2 == 0,
        )
        return name
    name = f"{stem}.jpg"
    _save_jpeg(folder / name, image.pixels)
    return name


def _save_jpeg(path: Path, pixels: Field) -> None:
    from PIL import Image

    grey = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    Image.fromarray(grey).save(path, format="JPEG", quality=_JPEG_QUALITY)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
