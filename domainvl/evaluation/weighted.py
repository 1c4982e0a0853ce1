"""The metrics of `metrics.py` for rows with whole-number weights, for many sets of weights at once.

A bootstrap resample is nothing but a weight per row: how often its patient was drawn. So each class is sorted once, and
a resample costs a cumulative sum. Ties are exact: a positive beats the weight of the negatives below it and half the
weight of those with the same score, which is the area under the ROC curve of the repeated rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from domainvl.evaluation.metrics import BINS, THRESHOLD, Bools, Floats, Values, as_binary, summarise

Rows = NDArray[np.intp]


class WeightedMetrics:
    """Metrics of one model, as a function of row weights.

    Args:
        labels: Class index `[N]` (single-label) or 0 and 1 `[N, C]` (multi-label).
        scores: Probabilities, `[N, C]`.
        valid: Which labels are known, `[N, C]`; multi-label only, None when all are.
    """

    def __init__(self, labels: NDArray[np.generic], scores: NDArray[np.floating], valid: Bools | None = None) -> None:
        values: Floats = scores.astype(np.float64)
        binary = as_binary(labels, values.shape[1])
        known = np.ones_like(binary) if valid is None else valid
        self.multilabel = labels.ndim == 2
        self._rankings = [
            _Ranking.of(
                values[:, c], np.flatnonzero(binary[:, c] & known[:, c]), np.flatnonzero(~binary[:, c] & known[:, c])
            )
            for c in range(values.shape[1])
        ]
        if self.multilabel:
            decided = values > THRESHOLD
            rows = [np.flatnonzero(known[:, c]) for c in range(values.shape[1])]
            self._bins = [_Calibration.of(values[:, c], binary[:, c], rows[c]) for c in range(values.shape[1])]
        else:
            choice = np.argmax(values, axis=1)
            decided = as_binary(choice, values.shape[1])
            confidence = np.take_along_axis(values, choice[:, None], axis=1)[:, 0]
            self._bins = [_Calibration.of(confidence, labels == choice, np.arange(len(choice)))]
        self._hits = [np.flatnonzero(rows) for rows in (decided & binary & known).T]
        self._false_alarms = [np.flatnonzero(rows) for rows in (decided & ~binary & known).T]

    def __call__(self, weights: Floats) -> Values:
        """Metrics under every row of `weights`.

        Args:
            weights: Whole numbers, `[R, N]`.

        Returns:
            Values with a leading axis `[R]`; NaN where no row with a needed label has weight.
        """
        ranked = [ranking(weights) for ranking in self._rankings]
        auroc, auprc, positive, negative = (np.stack(part, axis=1) for part in zip(*ranked, strict=True))
        hit = np.stack([_total(weights, rows) for rows in self._hits], axis=1)
        alarm = np.stack([_total(weights, rows) for rows in self._false_alarms], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            recall = hit / positive
            f1 = 2 * hit / (hit + alarm + positive)
            if not self.multilabel:
                pooled = {
                    "accuracy": hit.sum(axis=1) / positive.sum(axis=1),
                    "calibration_error": self._bins[0](weights),
                }
                f1[positive == 0] = np.nan
                per_class = {"auroc": auroc, "auprc": auprc, "recall": recall, "f1": f1}
                return summarise(pooled, per_class, multilabel=False)
            correct = hit + negative - alarm
            pooled = {"accuracy": correct.sum(axis=1) / (positive + negative).sum(axis=1)}
            per_class = {
                "auroc": auroc,
                "auprc": auprc,
                "accuracy_balanced": (recall + (negative - alarm) / negative) / 2,
                "f1": f1,
                "calibration_error": np.stack([bins(weights) for bins in self._bins], axis=1),
            }
        one_sided = (positive == 0) | (negative == 0)
        for name in ("f1", "calibration_error"):
            per_class[name][one_sided] = np.nan
        return summarise(pooled, per_class, multilabel=True)


@dataclass(frozen=True)
class _Ranking:
    """One class sorted by score; positions count into the sorted positives or negatives."""

    positives: Rows
    negatives: Rows
    below: Rows  # how many negatives score less than each positive
    not_above: Rows  # how many score less or the same
    first: Rows  # the first positive with the same score

    @classmethod
    def of(cls, scores: Floats, positives: Rows, negatives: Rows) -> _Ranking:
        positives = positives[np.argsort(scores[positives], kind="stable")]
        negatives = negatives[np.argsort(scores[negatives], kind="stable")]
        high, low = scores[positives], scores[negatives]
        return cls(
            positives,
            negatives,
            below=np.searchsorted(low, high, side="left"),
            not_above=np.searchsorted(low, high, side="right"),
            first=np.searchsorted(high, high, side="left"),
        )

    def __call__(self, weights: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """AUROC, average precision, and the weight of positives and of negatives, `[R]` each."""
        own = weights.take(self.positives, axis=1)
        up_to_positive, up_to_negative = _running(own), _running(weights.take(self.negatives, axis=1))
        positive, negative = up_to_positive[:, -1], up_to_negative[:, -1]
        below = up_to_negative.take(self.below, axis=1)
        beaten = 0.5 * (below + up_to_negative.take(self.not_above, axis=1))
        hits = positive[:, None] - up_to_positive.take(self.first, axis=1)
        called = hits + (negative[:, None] - below)
        # Nothing is called at the score of a positive that was not drawn and above which nothing was drawn.
        precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            auroc = (own * beaten).sum(axis=1) / (positive * negative)
            auprc = np.where(negative > 0, (own * precision).sum(axis=1) / positive, np.nan)
        return auroc, auprc, positive, negative


@dataclass(frozen=True)
class _Calibration:
    """Rows sorted into bins of confidence, with how much too low each confidence was."""

    bins: list[tuple[Rows, Floats]]
    rows: Rows

    @classmethod
    def of(cls, confidence: Floats, right: NDArray[np.generic], rows: Rows) -> _Calibration:
        # A confidence of exactly 1 has a bin of its own, as in torchmetrics.
        place = np.searchsorted(np.linspace(0, 1, BINS + 1), confidence[rows], side="right")
        bins = []
        for number in np.unique(place):
            inside = rows[place == number]
            bins.append((inside, right[inside].astype(np.float64) - confidence[inside]))
        return cls(bins, rows)

    def __call__(self, weights: Floats) -> Floats:
        error = np.zeros(len(weights))
        for inside, gap in self.bins:
            error += np.abs(weights.take(inside, axis=1) @ gap)
        with np.errstate(invalid="ignore"):
            return np.asarray(error / _total(weights, self.rows))


def _running(weights: Floats) -> Floats:
    """Cumulative sums with a leading 0, `[R, n + 1]`."""
    sums = np.zeros((weights.shape[0], weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


def _total(weights: Floats, rows: Rows) -> Floats:
    return np.asarray(weights.take(rows, axis=1).sum(axis=1))
