"""Procedural CT scans: volumes, reports, labels, organs and where each finding lies, as files on disk.

``studies.csv`` has one row per volume, ``reports/`` one text per scan, ``organs/`` one label map per volume,
``truth.json`` the boxes of what is really drawn. Labels are what the report says, as in the procedural chest X-rays.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from domainvl.samples.ct.anatomy import ORGAN_STRUCTURES, STRUCTURES, draw_body
from domainvl.samples.ct.cases import FINDINGS, NO_FINDING, ORGANS, Patient, Study, draw_patients
from domainvl.samples.ct.dicom import save_series
from domainvl.samples.ct.nifti import save_nifti
from domainvl.samples.ct.planting import Scan, scan
from domainvl.samples.ct.reports import report, severity_word
from domainvl.samples.ct.scanner import Reconstruction, draw_reconstructions, exposed

__all__ = ["FINDINGS", "NO_FINDING", "ORGANS", "PATIENTS", "generate"]

PATIENTS = 260
"""Patients of a full set."""

COLUMNS = ("image", "patient", "study", "view", "split", NO_FINDING, *FINDINGS, "report", *ORGANS, "organs")

_UNSIGNED_EVERY = 5

_README = """\
# Procedural CT scans

Drawn by `python -m domainvl sample ct` with seed {seed}: {patients} made-up patients, {scans} scans, {images} volumes.
Nobody was scanned, nothing here is of any clinical use, and a model that reads these volumes does not read real ones.

- `studies.csv`: one row per volume; volumes of one `study` are reconstructions of one scan (`view`: soft or sharp) and
  share a report; `split` keeps patients apart. A finding is `1` (stated), `0` (denied), `-1` (doubted) or blank (not
  mentioned). `{no_finding}` is `1` when nothing is stated or doubted. The columns {organs} say what
  the report says of each organ; healthy ones share one sentence.
- `scans/<patient>/<study>/`: NIfTI in Hounsfield units, in many orientations and spacings, some turned against the
  patient, some stored as unsigned numbers with an intercept; or a folder with a DICOM series and its localizer.
- `reports/<patient>/<study>.txt`: one report per scan.
- `organs/<patient>/<study>/`: a label map for each volume, voxel by voxel, with the numbers of TotalSegmentator's task
  `total`; `organs.csv` says which of them make up an organ. Free fluid in the belly belongs to none.
- `truth.json`: for each volume the lesions that are really drawn, with organ, side, lobe, severity and `box` =
  [[x, y, z], [x, y, z]], the lowest and the highest millimetres to the right, to the front and to the head.

Right and left are the patient's.

Licence: CC0 1.0, public domain.
"""


def generate(folder: Path, *, seed: int, patients: int) -> Iterator[None]:
    """Writes the set into an existing empty folder; yields once per patient."""
    rows: list[dict[str, str]] = []
    truth: dict[str, Any] = {}
    scans = 0
    for patient in draw_patients(seed, patients):
        number = int(patient.name[1:])
        # Streams of their own for each patient and scan: nobody's voxels depend on how many come before.
        body = draw_body(np.random.default_rng([seed, 3, number]))
        for study in patient.studies:
            scans += 1
            visit = int(study.name[1:])
            rng = np.random.default_rng([seed, 4, number, visit])
            text = f"reports/{patient.name}/{study.name}.txt"
            content, organs = report(rng, study)
            _write_text(folder / text, content)
            for made in draw_reconstructions(rng):
                # The same chance again: reconstructions show the same lesions.
                drawn = scan(np.random.default_rng([seed, 5, number, visit]), body, study, made.grid)
                name, labels = _save(folder, drawn, made, patient, study, rng, seed=seed, index=len(rows))
                rows.append(_row(name, patient, study, made.name, text, organs, labels))
                truth[name] = _truth(drawn, made)
        yield
    _write_table(folder / "studies.csv", COLUMNS, (row.values() for row in rows))
    structures = [(organ, STRUCTURES[name], name) for organ, names in ORGAN_STRUCTURES.items() for name in names]
    _write_table(folder / "organs.csv", ("organ", "label", "structure"), structures)
    _write_text(folder / "truth.json", json.dumps(truth, indent=1) + "\n")
    readme = _README.format(
        seed=seed,
        patients=patients,
        scans=scans,
        images=len(rows),
        no_finding=NO_FINDING,
        organs=", ".join(f"`{organ}`" for organ in ORGANS),
    )
    _write_text(folder / "README.md", readme)


def _save(
    folder: Path,
    drawn: Scan,
    made: Reconstruction,
    patient: Patient,
    study: Study,
    rng: np.random.Generator,
    *,
    seed: int,
    index: int,
) -> tuple[str, str]:
    """Saves a volume and its label map and gives their paths relative to ``folder``."""
    voxels = exposed(rng, drawn.hounsfield, made.noise)
    stem = f"{patient.name}/{study.name}/{made.name}"
    if made.dicom:
        name = f"scans/{stem}"
        save_series(
            folder / name,
            voxels,
            made.place,
            patient=patient.name,
            study=study.name,
            name=made.name,
            seed=seed,
            contrast=study.contrast,
        )
    else:
        name = f"scans/{stem}.nii.gz"
        if index % _UNSIGNED_EVERY == 0:
            save_nifti(folder / name, (voxels + np.int16(1024)).astype(np.uint16), made.place, intercept=-1024)
        else:
            save_nifti(folder / name, voxels, made.place)
    labels = f"organs/{stem}.nii.gz"
    save_nifti(folder / labels, drawn.labels, made.place)
    return name, labels


def _row(
    name: str, patient: Patient, study: Study, view: str, text: str, organs: dict[str, str], labels: str
) -> dict[str, str]:
    return {
        "image": name,
        "patient": patient.name,
        "study": study.name,
        "view": view,
        "split": patient.split,
        NO_FINDING: "1" if study.normal else "",
        **{finding: study.labels[finding].value for finding in FINDINGS},
        "report": text,
        **organs,
        "organs": labels,
    }


def _truth(drawn: Scan, made: Reconstruction) -> dict[str, Any]:
    shift = made.place[:3, 3] - made.body[:3, 3]
    found: dict[str, list[dict[str, Any]]] = {}
    for lesion, box in drawn.boxes:
        found.setdefault(lesion.finding, []).append(
            {
                "box": [np.round(np.add(corner, shift), 2).tolist() for corner in box],
                "organ": lesion.organ,
                "side": lesion.side,
                "lobe": lesion.lobe,
                "severity": severity_word(lesion),
            }
        )
    return {"findings": found}


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
