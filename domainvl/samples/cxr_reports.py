"""Chest X-rays of sick patients, for learning from reports: one picture each, several findings in different places.

Files and columns are those of ``domainvl.samples.cxr``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from domainvl.samples.cxr import generate_population
from domainvl.samples.cxr.cases import WARD

__all__ = ["PATIENTS", "generate"]

PATIENTS = 1900
"""Patients of a full set."""


def generate(folder: Path, *, seed: int, patients: int) -> Iterator[None]:
    """Writes the set into an existing empty folder; yields once per patient."""
    return generate_population(folder, WARD, "cxr-reports", seed=seed, patients=patients)
