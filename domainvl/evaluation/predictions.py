"""What a model said about a set of images, in plain arrays: the only thing that evaluation looks at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Half precision softmax rows miss 1 by less than this; a sigmoid handed in by mistake misses it by more.
_SUM_TOLERANCE = 0.02


@dataclass(frozen=True, eq=False)
class Predictions:
    """Probabilities beside labels, one row per image.

    Attributes:
        ids: One unique id per image, `[N]`.
        patients: Whose image it is, `[N]`; the image id where patients are unknown.
        classes: Class names, `[C]`.
        multilabel: Whether an image can have several classes, or none.
        labels: Class index `[N]`, or 0 and 1 `[N, C]` when multi-label (anything where not valid); None if unknown.
        valid: Which labels are known, bool `[N, C]`; None when all are. Multi-label only.
        zero_shot: Probabilities of the untouched backbone, `[N, C]`.
        adapted: Probabilities of the adapted model, `[N, C]`; None for a zero-shot run.
    """

    ids: list[str]
    patients: list[str]
    classes: list[str]
    multilabel: bool
    labels: NDArray[np.generic] | None
    valid: NDArray[np.bool_] | None
    zero_shot: NDArray[np.floating]
    adapted: NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        rows = len(self.ids)
        if not rows:
            raise ValueError("Predictions: no rows; the split that was predicted is empty")
        if not self.classes:
            raise ValueError("Predictions: no classes")
        self._check_names()
        _check_scores("zero_shot", self.zero_shot, self.ids, len(self.classes), self.multilabel)
        if self.adapted is not None:
            _check_scores("adapted", self.adapted, self.ids, len(self.classes), self.multilabel)
        if self.valid is not None:
            self._check_valid(self.valid)
        if self.labels is not None:
            self._check_labels(self.labels)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which labels count, bool `[N, C]`."""
        if self.valid is not None:
            return self.valid
        return np.full((len(self.ids), len(self.classes)), self.labels is not None)

    @property
    def final(self) -> NDArray[np.floating]:
        """Probabilities of the adapted model, or of zero-shot where nothing was learned, `[N, C]`."""
        return self.zero_shot if self.adapted is None else self.adapted

    def _check_names(self) -> None:
        if len(self.patients) != len(self.ids):
            raise ValueError(f"Predictions: {len(self.patients)} patients for {len(self.ids)} ids; give one per row")
        repeated = _repeated(self.ids)
        if repeated:
            raise ValueError(
                f"Predictions: ids occur more than once: {_list(repeated)}; predict every image once (a distributed "
                "sampler that pads repeats rows: drop them by row index before this)"
            )
        repeated = _repeated(self.classes)
        if repeated:
            raise ValueError(f"Predictions: classes occur more than once: {_list(repeated)}")
        for row, patient in enumerate(self.patients):
            if not patient:
                raise ValueError(
                    f"Predictions: row {row} (id {self.ids[row]!r}) has an empty patient, and the bootstrap would "
                    "take all such rows for one person; give the image id where patients are unknown"
                )

    def _check_valid(self, valid: NDArray[np.bool_]) -> None:
        if not self.multilabel:
            raise ValueError("Predictions: valid is for multi-label data; leave out rows whose label is unknown")
        expected = (len(self.ids), len(self.classes))
        if valid.shape != expected or valid.dtype != np.bool_:
            raise ValueError(f"Predictions: valid is {valid.dtype} {valid.shape}, expected bool {expected}")

    def _check_labels(self, labels: NDArray[np.generic]) -> None:
        rows, classes = len(self.ids), len(self.classes)
        if self.multilabel:
            if labels.shape != (rows, classes):
                raise ValueError(f"Predictions: labels are {labels.shape}, expected {(rows, classes)} (multi-label)")
            wrong = self.known & ~np.isin(labels, (0, 1))
            if wrong.any():
                row, column = (int(i) for i in np.argwhere(wrong)[0])
                raise ValueError(
                    f"Predictions: label {labels[row, column]} of row {row} (id {self.ids[row]!r}), class "
                    f"{self.classes[column]!r}, is not 0 or 1; mark it as not valid if it is unknown"
                )
            return
        if labels.shape != (rows,) or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"Predictions: labels are {labels.dtype} {labels.shape}, expected integers {(rows,)} (single-label)"
            )
        numbers = labels.astype(np.int64)
        outside = np.flatnonzero((numbers < 0) | (numbers >= classes))
        if outside.size:
            row = int(outside[0])
            raise ValueError(
                f"Predictions: label {numbers[row]} of row {row} (id {self.ids[row]!r}) is not in 0..{classes - 1}; "
                "leave out rows whose label is unknown"
            )


def _check_scores(name: str, scores: NDArray[np.floating], ids: Sequence[str], classes: int, multilabel: bool) -> None:
    if scores.shape != (len(ids), classes) or not np.issubdtype(scores.dtype, np.floating):
        raise ValueError(f"Predictions: {name} is {scores.dtype} {scores.shape}, expected floats {(len(ids), classes)}")
    # Written so that NaN counts as outside.
    outside = np.flatnonzero(~((scores >= 0) & (scores <= 1)).all(axis=1))
    if outside.size:
        row = int(outside[0])
        bad = scores[row][~((scores[row] >= 0) & (scores[row] <= 1))][0]
        raise ValueError(
            f"Predictions: {name} of row {row} (id {ids[row]!r}) holds {bad}, and so do {outside.size - 1} other rows; "
            "probabilities lie in 0..1. NaN means that the model diverged or that the image has no finite pixels"
            if np.isnan(bad)
            else f"Predictions: {name} of row {row} (id {ids[row]!r}) holds {bad}, outside 0..1; give probabilities "
            "(softmax or sigmoid of the logits)"
        )
    if not multilabel:
        sums = scores.sum(axis=1, dtype=np.float64)
        off = np.flatnonzero(np.abs(sums - 1) > _SUM_TOLERANCE)
        if off.size:
            row = int(off[0])
            raise ValueError(
                f"Predictions: {name} of row {row} (id {ids[row]!r}) sums to {sums[row]:.4f}, expected 1; "
                "single-label probabilities are a softmax over the classes"
            )


def _repeated(names: Sequence[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _list(names: Sequence[str], most: int = 3) -> str:
    rest = len(names) - most
    return ", ".join(repr(name) for name in names[:most]) + (f" and {rest} more" if rest > 0 else "")
