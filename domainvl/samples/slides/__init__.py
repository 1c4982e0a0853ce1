"""Procedural whole slides: pyramids on disk, what each shows, and where the lesion lies.

``slides.csv`` has one row per slide, ``truth/`` a map per slide of the lesion that is planted in it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from domainvl.samples.slides.cases import LESIONS, draw_patients
from domainvl.samples.slides.drawing import draw_slide
from domainvl.samples.slides.pyramid import save_pyramid

__all__ = ["LESIONS", "PATIENTS", "TRUTH_STEP", "generate"]

PATIENTS = 84
"""Patients of a full set."""

TRUTH_STEP = 16
"""Pixels of level 0 along one pixel of a truth map."""

_README = """\
# Procedural whole slides

Drawn by `python -m domainvl sample slides` with seed {seed}: {patients} made-up patients, {slides} slides. Nobody's
tissue is in here, nothing here is of any clinical use, and a model that reads these slides does not read real ones.

- `slides.csv`: one row per slide; `label` is the lesion that takes the most room ({lesions}), `split` keeps patients
  apart.
- `slides/`: tiled pyramids in JPEG, most of them plain TIFF, some as Aperio's scanners write them, with a thumbnail and
  a label page. Level 0 has 0.5, 0.4952 or 0.4657 microns per pixel; the next level a quarter of the pixels along a
  side, rounded up.
- `truth/`: for each slide a PNG that is white where its lesion lies; one of its pixels is {step} x {step} of level 0.

Licence: CC0 1.0, public domain.
"""


def generate(folder: Path, *, seed: int, patients: int) -> Iterator[None]:
    """Writes the set into an existing empty folder; yields once per patient."""
    (folder / "slides").mkdir()
    (folder / "truth").mkdir()
    rows = []
    for patient in draw_patients(seed, patients):
        for number, slide in enumerate(patient.slides):
            # A stream of its own for each slide: nobody's pixels depend on how many come before.
            drawing = draw_slide(np.random.default_rng([seed, 3, int(patient.name[1:]), number]), slide)
            stem = f"{patient.name}-{slide.name}"
            name = f"slides/{stem}.{'svs' if slide.svs else 'tif'}"
            save_pyramid(folder / name, drawing.pixels, slide.mpp)
            Image.fromarray(drawing.lesion).save(folder / "truth" / f"{stem}.png")
            rows.append((name, patient.name, patient.split, slide.lesion))
        yield
    with (folder / "slides.csv").open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(("slide", "patient", "split", "label"))
        writer.writerows(rows)
    readme = _README.format(seed=seed, patients=patients, slides=len(rows), lesions=", ".join(LESIONS), step=TRUTH_STEP)
    (folder / "README.md").write_text(readme, encoding="utf-8", newline="\n")
