"""Curves behind the numbers: ROC and precision-recall with bands over patients, and reliability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from domainvl.evaluation.bootstrap import LEVEL, patient_weights
from domainvl.evaluation.metrics import BINS, Bools, Floats
from domainvl.evaluation.predictions import Predictions

GRID: Floats = np.linspace(0, 1, 51)
"""Where a band is known."""


class Drawn(Protocol):
    """A curve as a function of row weights."""

    def __call__(self, weights: Floats) -> Floats:
        """Heights over `GRID` for weights `[R, N]`, `[R, 51]`; NaN where the curve does not exist."""


@dataclass(frozen=True)
class _Sorted:
    """Rows of one class from the highest score down; a curve has a corner where a score ends."""

    rows: np.ndarray
    positive: Bools
    ends: np.ndarray

    @classmethod
    def of(cls, positive: Bools, known: Bools, scores: Floats) -> _Sorted:
        rows = np.flatnonzero(known)
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        ordered = scores[rows]
        ends = np.append(np.flatnonzero(np.diff(ordered)), len(rows) - 1) if len(rows) else np.zeros(0, np.intp)
        return cls(rows, positive[rows], ends)

    def counts(self, weights: Floats) -> tuple[Floats, Floats]:
        """Positives and negatives above each corner, `[R, corners]`."""
        own = weights.take(self.rows, axis=1)
        hits = np.cumsum(own * self.positive, axis=1)[:, self.ends]
        return hits, np.cumsum(own, axis=1)[:, self.ends] - hits


class Roc:
    """Sensitivity over 1 - specificity.

    Args:
        positive: Which rows show the class, `[N]`.
        known: Which rows count, `[N]`.
        scores: `[N]`.
    """

    def __init__(self, positive: Bools, known: Bools, scores: Floats) -> None:
        self._sorted = _Sorted.of(positive, known, scores)

    def corners(self, weights: Floats) -> tuple[Floats, Floats]:
        """1 - specificity and sensitivity from (0, 0) to (1, 1), `[R, corners + 1]` each."""
        hits, alarms = self._sorted.counts(weights)
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = [part / part[:, -1:] for part in (alarms, hits)]
        # Times the end, so that it is NaN where that is: half a curve is none.
        start = 0 * (shares[0] + shares[1])[:, -1:]
        return np.concatenate([start, shares[0]], axis=1), np.concatenate([start, shares[1]], axis=1)

    def __call__(self, weights: Floats) -> Floats:
        """See `Drawn`."""
        return np.stack([np.interp(GRID, x, y) for x, y in zip(*self.corners(weights), strict=True)])


class PrecisionRecall:
    """Precision over recall; the arguments are those of `Roc`."""

    def __init__(self, positive: Bools, known: Bools, scores: Floats) -> None:
        self._sorted = _Sorted.of(positive, known, scores)

    def corners(self, weights: Floats) -> tuple[Floats, Floats]:
        """Recall and precision, `[R, corners]` each."""
        hits, alarms = self._sorted.counts(weights)
        with np.errstate(invalid="ignore", divide="ignore"):
            return hits / hits[:, -1:], hits / (hits + alarms)

    def __call__(self, weights: Floats) -> Floats:
        """See `Drawn`: the precision of the highest threshold that reaches a recall."""
        found = np.full((len(weights), len(GRID)), np.nan)
        for row, (x, y) in enumerate(zip(*self.corners(weights), strict=True)):
            if np.isfinite(x).all():
                found[row] = y[np.minimum(np.searchsorted(x, GRID - 1e-12), len(y) - 1)]
        return found


def bands(
    curves: Sequence[Drawn], patients: Sequence[str], *, resamples: int, seed: int
) -> list[tuple[Floats, Floats]]:
    """Lower and upper end over `GRID` of each curve, point by point, on the same resamples of patients."""
    chunks: list[list[Floats]] = [[] for _ in curves]
    for weights in patient_weights(patients, resamples, seed):
        for curve, found in zip(curves, chunks, strict=True):
            found.append(curve(weights))
    tail = 100 * (1 - LEVEL) / 2
    ends = []
    for found in chunks:
        heights = np.concatenate(found)
        whole = heights[np.isfinite(heights).all(axis=1)]
        low, high = np.percentile(whole, [tail, 100 - tail], axis=0) if len(whole) else np.full((2, len(GRID)), np.nan)
        ends.append((low, high))
    return ends


@dataclass(frozen=True)
class Reliability:
    """How often a model is right where it says a probability; the bins of the calibration error that hold anything.

    Attributes:
        said: Mean probability, `[B]`.
        seen: Share that is so, `[B]`.
        count: Decisions in the bin, `[B]`.
    """

    said: Floats
    seen: Floats
    count: Floats


def reliability(predictions: Predictions, scores: Floats) -> Reliability:
    """Of one model; in multi-label data over all known labels together, else over the most likely class.

    Args:
        predictions: With labels.
        scores: Which of its models, `[N, C]`.
    """
    labels = predictions.labels
    if labels is None:
        raise ValueError("reliability: the predictions have no labels")
    if predictions.multilabel:
        said, right = scores[predictions.known], (labels == 1)[predictions.known]
    else:
        choice = np.argmax(scores, axis=1)
        said, right = np.take_along_axis(scores, choice[:, None], axis=1)[:, 0], labels == choice
    place = np.searchsorted(np.linspace(0, 1, BINS + 1), said, side="right")
    count = np.bincount(place, minlength=BINS + 2).astype(np.float64)
    kept = count > 0
    means = [np.bincount(place, weights=part, minlength=BINS + 2)[kept] / count[kept] for part in (said, right)]
    return Reliability(means[0], means[1], count[kept])
