"""Procedural histology patches with captions, as files on disk.

``studies.csv`` has one row per patch: what fills most of it, and a caption. ``quilt.csv`` pairs the same patches with
captions many to many, in the columns of Quilt-1M. Stain, light and scanner are those of the patient.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from domainvl.samples.histo.captions import caption, region, remark
from domainvl.samples.histo.cases import KINDS, Patch, draw_patients
from domainvl.samples.histo.drawing import draw_patch, draw_scan

__all__ = ["KINDS", "PATIENTS", "generate"]

PATIENTS = 245
"""Patients of a full set."""

COLUMNS = ("image", "patient", "split", "label", "caption")
QUILT_COLUMNS = (
    "caption",
    "image_path",
    "subset",
    "split",
    "pathology",
    "roi_text",
    "corrected_text",
    "magnification",
    "height",
    "width",
    "single_wsi",
    "not_histology",
)

_PNG_EVERY = 8
_JPEG_QUALITY = 88
_README = """\
# Procedural histology patches

Drawn by `python -m domainvl sample histo` with seed {seed}: {patients} made-up patients, {patches} patches. Nobody's
tissue is in here, nothing here is of any clinical use, and a model that reads these patches does not read real ones.

- `studies.csv`: one row per patch; `label` is the tissue that fills most of it ({kinds}), `caption` says so and names
  what else is there; `split` keeps patients apart.
- `quilt.csv`: the same patches in the columns of Quilt-1M. A patch has one or two captions, and patches of one patient
  that show the same tissues share one; a few rows are marked as no histology.
- `images/`: 128 x 128 pixels of about half a micron to one micron, JPEG, every {png}th PNG.

Licence: CC0 1.0, public domain.
"""


def generate(folder: Path, *, seed: int, patients: int) -> Iterator[None]:
    """Writes the set into an existing empty folder; yields once per patient."""
    (folder / "images").mkdir()
    rows: list[dict[str, str]] = []
    pairs: list[dict[str, str]] = []
    for patient in draw_patients(seed, patients):
        # A stream of its own for each patient: no patient's pixels depend on how many come before.
        rng = np.random.default_rng([seed, 3, int(patient.name[1:])])
        scan = draw_scan(rng)
        shared: dict[frozenset[str], str] = {}
        for patch in patient.patches:
            # Named as the frames of a video are in Quilt-1M.
            kind = "png" if len(rows) % _PNG_EVERY == 0 else "jpg"
            name = f"images/{patient.name}_image_{patch.name}.{kind}"
            _save(folder / name, draw_patch(rng, patch, scan))
            said = caption(rng, patch)
            row = {"image": name, "patient": patient.name, "split": patient.split, "label": patch.kind, "caption": said}
            rows.append(row)
            together = shared.setdefault(frozenset({patch.kind, *patch.besides}), remark(rng, patch))
            texts = [said, together] if rng.random() < 0.6 else [together]
            pairs += [_pair(rng, row, patch, text) for text in texts]
        yield
    _write_table(folder / "studies.csv", COLUMNS, rows)
    _write_table(folder / "quilt.csv", QUILT_COLUMNS, pairs)
    text = _README.format(seed=seed, patients=patients, patches=len(rows), kinds=", ".join(KINDS), png=_PNG_EVERY)
    (folder / "README.md").write_text(text, encoding="utf-8", newline="\n")


def _pair(rng: np.random.Generator, row: Mapping[str, str], patch: Patch, text: str) -> dict[str, str]:
    return {
        "caption": text,
        "image_path": row["image"],
        "subset": "quilt",
        "split": row["split"],
        "pathology": "['Soft tissue']",
        "roi_text": repr([region(rng, patch)]),
        "corrected_text": repr([text]),
        "magnification": "1.0",
        "height": "128.0",
        "width": "128.0",
        "single_wsi": "1.0",
        "not_histology": "1.0" if rng.random() < 0.02 else "0.0",
    }


def _save(path: Path, pixels: np.ndarray) -> None:
    image = Image.fromarray(pixels)
    if path.suffix == ".png":
        image.save(path)
    else:
        image.save(path, format="JPEG", quality=_JPEG_QUALITY)


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as table:
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
