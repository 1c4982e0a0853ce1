"""Point values of the metrics, by torchmetrics, and what each of them means here.

    auroc_macro        mean over classes of the area under the ROC curve, one class against the rest
    auprc_macro        mean over classes of the average precision (step-wise, not trapezoidal)
    accuracy           share of images whose most likely class is right; multi-label: share of known labels that are
    accuracy_balanced  mean over classes of recall; multi-label: of (sensitivity + specificity) / 2
    f1_macro           mean over classes of F1
    calibration_error  expected calibration error, 15 equal bins, L1; multi-label: mean over classes

AUROC and AUPRC, and multi-label everything but accuracy, exist for a class only where positives and negatives are both
known; recall and F1 of single-label data need a positive. Elsewhere the class has NaN and the means leave it out: it is
never counted as 0. Multi-label decisions are `probability > 0.5`: no threshold is tuned, on any split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

METRICS = ("auroc_macro", "auprc_macro", "accuracy", "accuracy_balanced", "f1_macro", "calibration_error")
THRESHOLD = 0.5
BINS = 15

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_SINGLE_LABEL_MEANS = {
    "auroc_macro": "auroc",
    "auprc_macro": "auprc",
    "accuracy_balanced": "recall",
    "f1_macro": "f1",
}
_MULTI_LABEL_MEANS = {
    "auroc_macro": "auroc",
    "auprc_macro": "auprc",
    "accuracy_balanced": "accuracy_balanced",
    "f1_macro": "f1",
    "calibration_error": "calibration_error",
}


@dataclass(frozen=True)
class Values:
    """Metrics of one model; with a leading axis `[R]` when computed on R resamples.

    Attributes:
        overall: Metric name to `[]` or `[R]`, in the order of `METRICS`.
        per_class: Metric name to `[C]` or `[R, C]`; NaN where a class has no value.
    """

    overall: dict[str, Floats]
    per_class: dict[str, Floats]


def summarise(pooled: Mapping[str, Floats], per_class: dict[str, Floats], *, multilabel: bool) -> Values:
    """Add the means over classes to metrics that are not one (`pooled`)."""
    means = _MULTI_LABEL_MEANS if multilabel else _SINGLE_LABEL_MEANS
    found = {**pooled, **{name: mean_over_classes(per_class[key]) for name, key in means.items()}}
    return Values({name: found[name] for name in METRICS}, per_class)


def mean_over_classes(values: Floats) -> Floats:
    """Mean over the last axis without NaN; NaN where nothing is left."""
    present = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(present, values, 0).sum(axis=-1) / present.sum(axis=-1))


def as_binary(labels: NDArray[np.generic], classes: int) -> Bools:
    """Class indices `[N]` to one class against the rest, `[N, C]`; 0/1 labels `[N, C]` to bool."""
    if labels.ndim == 1:
        return np.asarray(labels[:, None] == np.arange(classes))
    return np.asarray(labels == 1)


def single_label(labels: NDArray[np.integer], scores: NDArray[np.floating]) -> Values:
    """Metrics of single-label predictions.

    Args:
        labels: Class index, `[N]`.
        scores: Probabilities, `[N, C]`.
    """
    import torch
    from torchmetrics.functional import classification as tm

    classes = scores.shape[1]
    probabilities = torch.from_numpy(scores.astype(np.float64))
    truth = torch.from_numpy(labels.astype(np.int64))
    binary = torch.from_numpy(as_binary(labels, classes).astype(np.int64))
    # numpy's argmax takes the first of equals, as the resampled metrics do; torch's promises nothing.
    choice = torch.from_numpy(np.argmax(scores, axis=1))
    confidence = probabilities.gather(1, choice[:, None]).squeeze(1)

    everything = torch.ones_like(binary, dtype=torch.bool)
    per_class = {
        "auroc": _each_class(tm.binary_auroc, probabilities, binary, everything),
        "auprc": _each_class(tm.binary_average_precision, probabilities, binary, everything),
    }
    present = binary.any(dim=0).numpy()
    for name, metric in (("recall", tm.multiclass_recall), ("f1", tm.multiclass_f1_score)):
        if classes == 1:  # torchmetrics takes two classes or more; with one, every decision is right
            per_class[name] = np.ones(1)
            continue
        values = metric(choice, truth, num_classes=classes, average="none").numpy().astype(np.float64)
        per_class[name] = np.where(present, values, np.nan)
    right = (choice == truth).long()
    pooled = {
        "accuracy": np.asarray(right.double().mean()),
        "calibration_error": np.asarray(tm.binary_calibration_error(confidence, right, n_bins=BINS).double()),
    }
    return summarise(pooled, per_class, multilabel=False)


def multi_label(labels: NDArray[np.generic], valid: Bools, scores: NDArray[np.floating]) -> Values:
    """Metrics of multi-label predictions.

    Args:
        labels: 0 and 1, `[N, C]`; ignored where not valid.
        valid: Which labels are known, `[N, C]`.
        scores: Probabilities, `[N, C]`.
    """
    import torch
    from torchmetrics.functional import classification as tm

    probabilities = torch.from_numpy(scores.astype(np.float64))
    truth = torch.from_numpy(as_binary(labels, scores.shape[1]).astype(np.int64))
    decisions = torch.from_numpy((scores > THRESHOLD).astype(np.int64))
    known = torch.from_numpy(valid)

    def balanced(choice: Tensor, target: Tensor) -> Tensor:
        return (tm.binary_recall(choice, target) + tm.binary_specificity(choice, target)) / 2

    def calibration(probability: Tensor, target: Tensor) -> Tensor:
        return tm.binary_calibration_error(probability, target, n_bins=BINS)

    per_class = {
        "auroc": _each_class(tm.binary_auroc, probabilities, truth, known),
        "auprc": _each_class(tm.binary_average_precision, probabilities, truth, known),
        "accuracy_balanced": _each_class(balanced, decisions, truth, known),
        "f1": _each_class(tm.binary_f1_score, decisions, truth, known),
        "calibration_error": _each_class(calibration, probabilities, truth, known),
    }
    right = (decisions == truth)[known].double()
    pooled = {"accuracy": np.asarray(right.mean() if len(right) else np.nan, dtype=np.float64)}
    return summarise(pooled, per_class, multilabel=True)


def _each_class(metric: Callable[[Tensor, Tensor], Tensor], predicted: Tensor, truth: Tensor, known: Tensor) -> Floats:
    """One binary metric for every class with both labels, NaN for the others, `[C]`."""
    values = np.full(truth.shape[1], np.nan)
    for column in range(truth.shape[1]):
        rows = known[:, column]
        target = truth[rows, column]
        if 0 < int(target.sum()) < len(target):
            values[column] = float(metric(predicted[rows, column], target))
    return values
