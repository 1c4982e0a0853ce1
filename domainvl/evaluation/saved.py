"""`predictions.csv`, read back."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from domainvl.evaluation.metrics import Floats
from domainvl.evaluation.predictions import Predictions

MODELS = ("zero_shot", "adapted")
_WAYS = ("i2t_rank", "t2i_rank")


@dataclass(frozen=True, eq=False)
class Saved:
    """What a run wrote row by row.

    Attributes:
        ids: Image ids, `[N]`.
        patients: Whose image it is, `[N]`.
        classes: Class probabilities, of the images that have any; None where the run had no classes.
        rows: Where in the file each row of `classes` stands, from 0.
        ranks: `zero_shot:i2t_rank` and so on, `[N]`, NaN where nothing searches; empty for a classification.
    """

    ids: list[str]
    patients: list[str]
    classes: Predictions | None
    rows: list[int]
    ranks: dict[str, Floats]


def read_predictions(path: Path, classes: Sequence[str]) -> Saved:
    """Read what `write_predictions` or `write_alignment` wrote.

    Args:
        path: The file.
        classes: Class names, in the order that the run had them.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        lines = list(reader)
    columns = {name: place for place, name in enumerate(header)}
    if "id" not in columns or "patient" not in columns or any(len(line) != len(header) for line in lines):
        raise ValueError(f"{path}: this is no predictions.csv: it needs columns id and patient and rows of one length")
    ids = [line[columns["id"]] for line in lines]
    patients = [line[columns["patient"]] for line in lines]
    ranks = {
        name: np.array([float(line[columns[name]] or "nan") for line in lines])
        for name in (f"{model}:{way}" for model in MODELS for way in _WAYS)
        if name in columns
    }
    first = f"zero_shot:{classes[0]}" if classes else ""
    if first not in columns:
        return Saved(ids, patients, None, [], ranks)
    rows = [row for row, line in enumerate(lines) if line[columns[first]]]
    return Saved(ids, patients, _classes(path, columns, [lines[row] for row in rows], classes), rows, ranks)


def _classes(path: Path, columns: dict[str, int], lines: Sequence[Sequence[str]], names: Sequence[str]) -> Predictions:
    def numbers(prefix: str) -> Floats | None:
        places = [columns.get(f"{prefix}:{name}") for name in names]
        if places[0] is None:
            return None
        missing = [name for name, place in zip(names, places, strict=True) if place is None]
        if missing:
            raise ValueError(f"{path}: there is no column {prefix}:{missing[0]}")
        return np.array([[float(line[place] or "nan") for place in places if place is not None] for line in lines])

    zero_shot, marks = numbers("zero_shot"), numbers("label")
    if zero_shot is None:
        raise ValueError(f"{path}: there is no column zero_shot:{names[0]}")
    labels: np.ndarray | None = None
    valid = None
    if marks is not None:
        valid = ~np.isnan(marks)
        labels = np.where(valid, marks, 0).astype(np.int64)
    elif "label" in columns:
        numbered = {name: number for number, name in enumerate(names)}
        said = [line[columns["label"]] for line in lines]
        unknown = sorted(set(said) - set(names))
        if unknown:
            raise ValueError(f"{path}: {len(unknown)} labels are none of the run's classes")
        labels = np.array([numbered[name] for name in said], dtype=np.int64)
    return Predictions(
        ids=[line[columns["id"]] for line in lines],
        patients=[line[columns["patient"]] for line in lines],
        classes=list(names),
        multilabel=marks is not None,
        labels=labels,
        valid=valid,
        zero_shot=zero_shot,
        adapted=numbers("adapted"),
    )
