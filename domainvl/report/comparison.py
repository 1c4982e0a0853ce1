"""Several runs on the same patients: numbers, paired differences, one table and one page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from domainvl.errors import CommandError
from domainvl.evaluation.bootstrap import Interval, interval, resample_metrics
from domainvl.evaluation.metrics import Floats
from domainvl.evaluation.predictions import Predictions
from domainvl.evaluation.weighted import WeightedMetrics
from domainvl.report.names import MODELS
from domainvl.report.record import Record

_KS = (1, 5, 10)
_RESAMPLES = 1000

Scored = Callable[[Floats], dict[str, Floats]]


@dataclass(frozen=True)
class Row:
    """One model of one run.

    Attributes:
        name: What tables call it.
        values: Metric name, or `auroc:<class>`, to value and interval.
        differences: The same against the first row, on the same resamples; empty for the first row.
    """

    name: str
    values: dict[str, Interval]
    differences: dict[str, Interval]


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        rows: What differences are taken from first; then every other model, zero-shot of the first run among them.
        classes: Class names.
        images: How many were measured.
        patients: How many people.
        resamples: Of the bootstrap; 0 where one patient allows none.
        split: Hash of the split that all runs share.
    """

    rows: list[Row]
    classes: list[str]
    images: int
    patients: int
    resamples: int
    split: str


def compare(folders: Sequence[Path], *, reference: int = 0, seed: int | None = None) -> Comparison:
    """Measure runs on the same patients.

    Args:
        folders: Two or more finished runs.
        reference: Which run, from 1, differences are taken from; 0 for the zero-shot model of the first.
        seed: Of the bootstrap over patients; that of the first run when None.
    """
    records = [Record.read(folder) for folder in folders]
    _check(records)
    names = _names(records)
    models = [(f"{MODELS['zero_shot']} ({names[0]})", _scored(records[0], records[0], "zero_shot"))]
    models += [
        (name, _scored(record, records[0], record.models[-1])) for name, record in zip(names, records, strict=True)
    ]
    first = models.pop(reference)
    models.insert(0, first)
    patients = records[0].saved.patients
    ones = np.ones((1, len(patients)))
    points = [{key: value[0] for key, value in scored(ones).items()} for _, scored in models]
    lone = len(set(patients)) == 1
    start = records[0].metrics["bootstrap"]["seed"] if seed is None else seed
    drawn: list[dict[str, Floats]] = []
    if not lone:
        drawn = resample_metrics([scored for _, scored in models], patients, resamples=_RESAMPLES, seed=start)
    rows = []
    for place, (name, _) in enumerate(models):
        own = drawn[place] if drawn else None
        values = {
            key: interval(float(value), None if own is None else own[key]) for key, value in points[place].items()
        }
        changes = {
            key: interval(float(value - points[0][key]), None if own is None else own[key] - drawn[0][key])
            for key, value in points[place].items()
            if place and key in points[0]
        }
        rows.append(Row(name, values, changes))
    return Comparison(
        rows,
        list(records[0].metrics["per_class"]),
        len(patients),
        len(set(patients)),
        0 if lone else _RESAMPLES,
        records[0].metrics["hashes"]["split"],
    )


def _check(records: Sequence[Record]) -> None:
    """Refuse runs whose numbers cannot be set side by side, and say which."""
    first = records[0]
    for other in records[1:]:
        for name, mine, theirs in (
            ("split hash", first.metrics["hashes"]["split"], other.metrics["hashes"]["split"]),
            ("split", first.metrics["split"], other.metrics["split"]),
            ("classes", list(first.metrics["per_class"]), list(other.metrics["per_class"])),
        ):
            if mine != theirs:
                raise CommandError(
                    f"{first.run.folder} and {other.run.folder} cannot be compared: {name} {_short(mine)} and "
                    f"{_short(theirs)}",
                    todo="compare runs on the same data, split and classes",
                    status=1,
                )
        if dict(zip(first.saved.ids, first.saved.patients, strict=True)) != dict(
            zip(other.saved.ids, other.saved.patients, strict=True)
        ):
            raise CommandError(
                f"{first.run.folder} and {other.run.folder} cannot be compared: "
                f"they measured {len(first.saved.ids)} and {len(other.saved.ids)} images, and not the same ones",
                todo="look into rejects.csv of both",
                status=1,
            )


def _short(value: object) -> str:
    text = ", ".join(value) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _names(records: Sequence[Record]) -> list[str]:
    """Short names that are still different."""
    names = [record.name for record in records]
    if len(set(names)) < len(names):
        names = [str(record.run.folder) for record in records]
    if len(set(names)) < len(names):
        raise CommandError("compare: a run is given twice; give each once")
    return names


def _scored(record: Record, first: Record, model: str) -> Scored:
    """The metrics of one model, of rows in the order of the first record."""
    saved = record.saved
    order = {name: place for place, name in enumerate(saved.ids)}
    rows = np.array([order[name] for name in first.saved.ids])
    ranks = {
        f"{way}_r": saved.ranks[f"{model}:{way}_rank"][rows]
        for way in ("i2t", "t2i")
        if f"{model}:{way}_rank" in saved.ranks
    }
    classes = None if saved.classes is None or saved.classes.labels is None else saved.classes
    weighted = None if classes is None else _weighted(classes, model)
    where = np.array([order[name] for name in classes.ids]) if classes is not None else None

    def scored(weights: Floats) -> dict[str, Floats]:
        found: dict[str, Floats] = {}
        for name, own in ranks.items():
            searched = np.flatnonzero(~np.isnan(own))
            total = weights[:, searched].sum(axis=1)
            found |= {f"{name}{k}": weights[:, searched] @ (own[searched] <= k) / total for k in _KS}
        if weighted is not None and classes is not None and where is not None:
            spread = np.empty_like(weights)
            spread[:, rows] = weights
            values = weighted(spread[:, where])
            found |= values.overall
            found |= {f"auroc:{name}": values.per_class["auroc"][:, c] for c, name in enumerate(classes.classes)}
        return found

    return scored


def _weighted(classes: Predictions, model: str) -> WeightedMetrics:
    scores = classes.zero_shot if model == "zero_shot" or classes.adapted is None else classes.adapted
    return WeightedMetrics(np.asarray(classes.labels), scores, classes.valid)
