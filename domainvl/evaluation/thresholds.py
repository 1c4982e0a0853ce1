"""Where a score becomes a yes: chosen on validation patients, applied to others.

Published CT numbers pick the threshold on the split that they report. The two steps are apart here, so that this cannot
happen by accident: `choose` sees validation, `f1_at` sees a threshold that it cannot change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from domainvl.evaluation.metrics import Bools, Floats

Rule = Literal["f1", "youden"]


def choose(
    labels: NDArray[np.generic], scores: NDArray[np.floating], valid: Bools | None = None, rule: Rule = "f1"
) -> Floats:
    """The threshold of every class that is best on these rows, `[C]`; a score above it is a yes.

    It lies half-way between two neighbouring scores; of equally good ones, the highest is taken. A class that lacks
    one of its labels has NaN.

    Args:
        labels: 0 and 1, `[N, C]`.
        scores: `[N, C]`.
        valid: Which labels are known, `[N, C]`; None when all are.
        rule: `f1`, or `youden` (sensitivity + specificity).
    """
    if rule not in ("f1", "youden"):
        raise ValueError(f"thresholds.choose: rule is {rule!r}; choose 'f1' or 'youden'")
    if labels.shape != scores.shape or labels.ndim != 2:
        raise ValueError(f"thresholds.choose: labels {labels.shape} and scores {scores.shape}, expected one [N, C]")
    known = np.ones(labels.shape, dtype=np.bool_) if valid is None else valid
    columns = zip(labels.T, scores.T.astype(np.float64), known.T, strict=True)
    return np.array([_best(label[use] == 1, score[use], rule) for label, score, use in columns])


def _best(positive: Bools, scores: Floats, rule: Rule) -> float:
    yes, no = int(positive.sum()), int((~positive).sum())
    if not (yes and no):
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    called = np.arange(1, len(ordered) + 1)
    hits = np.cumsum(positive[order])
    value = 2 * hits / (called + yes) if rule == "f1" else hits / yes - (called - hits) / no
    # Equal scores are called together, so a cut is possible only before the next lower one.
    ends = np.flatnonzero(np.diff(ordered, append=-np.inf))
    last = int(ends[np.argmax(value[ends])])
    if last + 1 == len(ordered):
        return float(np.nextafter(ordered[last], -np.inf))
    low, high = ordered[last + 1], ordered[last]
    middle = (low + high) / 2
    return float(middle if low <= middle < high else low)


class ThresholdedF1:
    """F1 of every class at thresholds that were chosen elsewhere, and their mean, as a function of row weights.

    Args:
        labels: 0 and 1, `[N, C]`.
        scores: `[N, C]`.
        thresholds: `[C]`; a class with NaN has no F1.
        classes: Names, `[C]`.
        valid: Which labels are known; None when all are.
    """

    def __init__(
        self,
        labels: NDArray[np.generic],
        scores: NDArray[np.floating],
        thresholds: Floats,
        classes: Sequence[str],
        valid: Bools | None = None,
    ) -> None:
        known = np.ones(labels.shape, dtype=np.bool_) if valid is None else valid
        positive, called = (labels == 1) & known, (scores.astype(np.float64) > thresholds) & known
        self.classes = list(classes)
        self._hits, self._named = (positive & called).astype(np.float64), positive.astype(np.float64) + called
        self._positive = positive.astype(np.float64)
        self._without = np.isnan(thresholds)

    def values(self) -> dict[str, Floats]:
        """`f1_macro_tuned` and `f1_weighted_tuned` over classes, and `f1_tuned:<class>`, on all rows."""
        return {name: value[0] for name, value in self(np.ones((1, len(self._hits)))).items()}

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """The same under every row of `weights` `[R, N]`; NaN where a class has no positive row."""
        positive = weights @ self._positive
        with np.errstate(invalid="ignore", divide="ignore"):
            f1 = 2 * (weights @ self._hits) / (weights @ self._named)
            f1[(positive == 0) | self._without] = np.nan
            known = ~np.isnan(f1)
            filled = np.where(known, f1, 0)
            macro = filled.sum(axis=1) / known.sum(axis=1)
            share = np.where(known, positive, 0)
            weighted = (filled * share).sum(axis=1) / share.sum(axis=1)
        found = {f"f1_tuned:{name}": f1[:, column] for column, name in enumerate(self.classes)}
        return {"f1_macro_tuned": macro, "f1_weighted_tuned": weighted} | found
