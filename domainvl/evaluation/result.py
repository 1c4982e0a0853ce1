"""From predictions to numbers that can be believed: zero-shot and adapted side by side, with intervals and counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from domainvl.evaluation import metrics
from domainvl.evaluation.bootstrap import Interval, Progress, interval, resample
from domainvl.evaluation.metrics import THRESHOLD, Bools, Floats, Values, as_binary
from domainvl.evaluation.predictions import Predictions
from domainvl.evaluation.weighted import WeightedMetrics

if TYPE_CHECKING:
    from rich.console import Console

FEW_PATIENTS = 20
"""Below this many a percentile interval is too short more often than it should be."""
CALIBRATION_PATIENTS = 500
"""Below this many, sampling noise in the bins adds to the calibration error (measured in `bootstrap`'s docstring)."""

Intervals = dict[str, Interval]


class Compared(Protocol):
    """Two models and what is between them."""

    @property
    def zero_shot(self) -> Intervals:
        """Of the untouched model."""

    @property
    def adapted(self) -> Intervals | None:
        """Of the adapted model."""

    @property
    def difference(self) -> Intervals | None:
        """Adapted minus zero-shot, paired."""


@dataclass(frozen=True)
class ClassResult:
    """One class against the rest.

    Attributes:
        positives: Images known to show it.
        negatives: Images known not to.
        zero_shot: Metric name to value; the value is None where the class has only one label.
        adapted: The same for the adapted model.
        difference: Adapted minus zero-shot, paired.
    """

    positives: int
    negatives: int
    zero_shot: Intervals
    adapted: Intervals | None
    difference: Intervals | None

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {"n_positive": self.positives, "n_negative": self.negatives} | models_as_dict(self)


class Beside(Protocol):
    """Another result of a test."""

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""

    def show(self, console: Console | None = None) -> None:
        """Print it; to standard output when None."""


@dataclass(frozen=True)
class Evaluation:
    """How good the zero-shot and the adapted model are.

    Attributes:
        zero_shot: Metric name (`metrics.METRICS`) to value and interval.
        adapted: The same for the adapted model; None for a zero-shot run.
        difference: Adapted minus zero-shot on the same resamples; None for a zero-shot run.
        per_class: Class name to its result, every class, in the order of the predictions.
        notes: What a reader has to know about the numbers.
        images: Rows.
        patients: Different patients.
        resamples: Bootstrap resamples; 0 where one patient allows none.
        seed: Of the bootstrap.
        besides: Other results of the same test, by name.
    """

    zero_shot: Intervals
    adapted: Intervals | None
    difference: Intervals | None
    per_class: dict[str, ClassResult]
    notes: list[str]
    images: int
    patients: int
    resamples: int
    seed: int
    besides: Mapping[str, Beside] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON; what does not exist is None."""
        return models_as_dict(self) | {
            "per_class": {name: result.as_dict() for name, result in self.per_class.items()},
            "n": {"images": self.images, "patients": self.patients},
            "bootstrap": {"unit": "patient", "resamples": self.resamples, "seed": self.seed, "level": 0.95},
            "notes": list(self.notes),
            **{name: one.as_dict() for name, one in self.besides.items()},
        }


def evaluate(
    predictions: Predictions, *, seed: int, resamples: int = 1000, progress: Progress | None = None
) -> Evaluation:
    """Score predictions against their labels.

    Args:
        predictions: With labels.
        seed: Of the bootstrap over patients.
        resamples: How many resamples the intervals come from.
        progress: Called with resamples done and in all; worth a bar from some ten thousand images on.
    """
    if predictions.labels is None:
        raise ValueError("evaluate: the predictions have no labels; evaluate a split that has, or only write them")
    binary = as_binary(predictions.labels, len(predictions.classes))
    known = predictions.known
    patients = len(set(predictions.patients))
    scored = [predictions.zero_shot] + ([] if predictions.adapted is None else [predictions.adapted])
    points = [_point(predictions.labels, known, scores) for scores in scored]
    samples: list[Values] = []
    if patients > 1:
        models = [WeightedMetrics(predictions.labels, scores, predictions.valid) for scores in scored]
        samples = resample(models, predictions.patients, resamples=resamples, seed=seed, progress=progress)

    lone = _from_one_patient(predictions.patients, binary, known)
    classes = range(len(predictions.classes))
    per_class = [
        contrast([_column(v, c) for v in points], [] if lone[c] else [_column(v, c) for v in samples]) for c in classes
    ]
    positives, negatives = (binary & known).sum(axis=0), (~binary & known).sum(axis=0)
    overall = contrast([value.overall for value in points], [value.overall for value in samples])
    notes = _notes(predictions, positives, negatives, lone, patients, samples)
    return Evaluation(
        *overall,
        per_class={
            name: ClassResult(int(positives[c]), int(negatives[c]), *per_class[c])
            for c, name in enumerate(predictions.classes)
        },
        notes=notes,
        images=len(predictions),
        patients=patients,
        resamples=resamples if samples else 0,
        seed=seed,
    )


def headline(predictions: Predictions) -> dict[str, float]:
    """Values without intervals, of the adapted model or else of zero-shot; cheap enough for each epoch."""
    if predictions.labels is None:
        return {}
    overall = _point(predictions.labels, predictions.known, predictions.final).overall
    return {name: float(value) for name, value in overall.items() if np.isfinite(value)}


def _point(labels: NDArray[np.generic], known: Bools, scores: NDArray[np.floating]) -> Values:
    if labels.ndim == 2:
        return metrics.multi_label(labels, known, scores)
    return metrics.single_label(labels.astype(np.int64), scores)


def _column(values: Values, column: int) -> dict[str, Floats]:
    return {name: value[..., column] for name, value in values.per_class.items()}


def contrast(
    points: list[dict[str, Floats]], samples: list[dict[str, Floats]]
) -> tuple[Intervals, Intervals | None, Intervals | None]:
    """Intervals of zero-shot, of adapted, and of their difference; without samples there are only values."""

    def intervals(point: dict[str, Floats], sample: dict[str, Floats] | None) -> Intervals:
        return {k: interval(float(value), None if sample is None else sample[k]) for k, value in point.items()}

    drawn: list[dict[str, Floats] | None] = list(samples) or [None] * len(points)
    if len(points) == 1:
        return intervals(points[0], drawn[0]), None, None
    before, after = points
    first, second = drawn
    paired = None if first is None or second is None else {k: second[k] - first[k] for k in first}
    change = intervals({k: after[k] - before[k] for k in before}, paired)
    return intervals(before, first), intervals(after, second), change


def _from_one_patient(patients: list[str], binary: Bools, known: Bools) -> list[bool]:
    """Whether all positives, or all negatives, of a class are one person's."""
    names = np.asarray(patients)
    return [
        any(len(np.unique(names[rows])) == 1 for rows in (b & k, ~b & k))
        for b, k in zip(binary.T, known.T, strict=True)
    ]


def _notes(
    predictions: Predictions,
    positives: np.ndarray,
    negatives: np.ndarray,
    lone: list[bool],
    patients: int,
    samples: list[Values],
) -> list[str]:
    notes = []
    named = list(zip(predictions.classes, positives, negatives, strict=True))
    one_sided = [f"{name} ({p} positive, {n} negative)" for name, p, n in named if not (p and n)]
    if one_sided:
        notes.append(f"No AUROC without both labels, left out of the means: {', '.join(one_sided)}.")
    unknown = int((~predictions.known).sum())
    if unknown:
        notes.append(f"{unknown} of {predictions.known.size} labels are unknown (uncertain or blank) and not counted.")
    if predictions.multilabel:
        notes.append(f"Accuracy, balanced accuracy and F1 decide at a fixed probability of {THRESHOLD}, not tuned.")
    if patients == 1:
        notes.append("All images are from one patient, so there are no intervals.")
        return notes
    if patients < FEW_PATIENTS:
        notes.append(f"Only {patients} patients: take the intervals for too short.")
    if patients < CALIBRATION_PATIENTS:
        notes.append(
            f"Calibration error and its interval read too high below {CALIBRATION_PATIENTS} patients, "
            "most of all for a well calibrated model."
        )
    single = [name for (name, p, n), alone in zip(named, lone, strict=True) if alone and p and n]
    if single:
        notes.append(f"No interval, as all positives or all negatives are one patient's: {', '.join(single)}.")
    lost = np.isnan(samples[0].per_class["auroc"]).sum(axis=0)
    dropped = [f"{name} {count}" for (name, p, n), count in zip(named, lost, strict=True) if p and n and count]
    if dropped:
        total = len(samples[0].overall["accuracy"])
        notes.append(f"Classes that lost a label and left the mean, in resamples of {total}: {', '.join(dropped)}.")
    return notes


def models_as_dict(result: Compared) -> dict[str, Any]:
    """The three parts of every result, for JSON."""

    def plain(values: Intervals | None) -> dict[str, Any] | None:
        return None if values is None else {name: value.as_dict() for name, value in values.items()}

    return {
        "zero_shot": plain(result.zero_shot),
        "adapted": plain(result.adapted),
        "difference": plain(result.difference),
    }
