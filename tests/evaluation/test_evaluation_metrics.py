"""Point values and weighted values against scikit-learn and torchmetrics, ties included."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torchmetrics import classification as tm

from domainvl.evaluation import METRICS
from domainvl.evaluation.metrics import multi_label, single_label
from domainvl.evaluation.weighted import WeightedMetrics

ROWS, CLASSES = 180, 4
# torchmetrics divides counts in single precision.
POINT = {"abs": 1e-6, "nan_ok": True}


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def make_single(ties):
    rng = np.random.default_rng(1)
    labels = rng.integers(CLASSES, size=ROWS)
    logits = rng.normal(size=(ROWS, CLASSES)) + 1.2 * np.eye(CLASSES)[labels]
    return labels, softmax(logits.round() if ties else logits)


def make_multi(ties):
    rng = np.random.default_rng(2)
    labels = (rng.random((ROWS, CLASSES)) < [0.5, 0.3, 0.1, 0.7]).astype(float)
    logits = rng.normal(size=(ROWS, CLASSES)) + labels
    valid = rng.random((ROWS, CLASSES)) > 0.2
    labels[~valid] = np.nan
    scores = 1 / (1 + np.exp(-logits))
    if ties:
        scores = scores.round(1)
        scores[:3] = [[0] * CLASSES, [1] * CLASSES, [0.5] * CLASSES]
    return labels, valid, scores


def ece(confidence, right, bins=15):
    """Expected calibration error, written out."""
    error = 0.0
    for low in np.arange(bins + 1) / bins:
        inside = (confidence >= low) & (confidence < low + 1 / bins)
        if inside.any():
            error += inside.sum() * abs(right[inside].mean() - confidence[inside].mean())
    return error / len(confidence)


def expected_single(labels, scores):
    """The table of metrics by scikit-learn, over classes that occur."""
    choice = scores.argmax(axis=1)
    present = np.unique(labels)
    ranked = [c for c in present if len(present) > 1]
    return {
        "auroc_macro": np.mean([sk.roc_auc_score(labels == c, scores[:, c]) for c in ranked]),
        "auprc_macro": np.mean([sk.average_precision_score(labels == c, scores[:, c]) for c in ranked]),
        "accuracy": sk.accuracy_score(labels, choice),
        "accuracy_balanced": np.mean([(choice[labels == c] == c).mean() for c in present]),
        "f1_macro": sk.f1_score(labels, choice, labels=present, average="macro", zero_division=0),
        "calibration_error": ece(scores.max(axis=1), labels == choice),
    }


def expected_multi(labels, valid, scores):
    rows = [valid[:, c] for c in range(scores.shape[1])]
    pairs = [(labels[r, c].astype(int), scores[r, c]) for c, r in enumerate(rows)]
    scored = [(y, p) for y, p in pairs if 0 < y.sum() < len(y)]
    known = np.concatenate([(p > 0.5) == y for y, p in pairs])
    return {
        "auroc_macro": np.mean([sk.roc_auc_score(y, p) for y, p in scored]),
        "auprc_macro": np.mean([sk.average_precision_score(y, p) for y, p in scored]),
        "accuracy": known.mean(),
        "accuracy_balanced": np.mean([sk.balanced_accuracy_score(y, p > 0.5) for y, p in scored]),
        "f1_macro": np.mean([sk.f1_score(y, p > 0.5, zero_division=0) for y, p in scored]),
        "calibration_error": np.mean([ece(p, y) for y, p in scored]),
    }


@pytest.mark.parametrize("ties", [False, True])
def test_single_label_points(ties):
    labels, scores = make_single(ties)
    found = single_label(labels, scores)
    assert tuple(found.overall) == METRICS
    assert {k: float(v) for k, v in found.overall.items()} == pytest.approx(expected_single(labels, scores), **POINT)


@pytest.mark.parametrize("ties", [False, True])
def test_multi_label_points(ties):
    labels, valid, scores = make_multi(ties)
    found = multi_label(labels, valid, scores)
    assert tuple(found.overall) == METRICS
    expected = expected_multi(labels, valid, scores)
    assert {k: float(v) for k, v in found.overall.items()} == pytest.approx(expected, **POINT)


@pytest.mark.parametrize("ties", [False, True])
def test_unit_weights_equal_torchmetrics(ties):
    """The fast path and the point values are two implementations of one thing."""
    labels, scores = make_single(ties)
    one = WeightedMetrics(labels, scores)(np.ones((1, ROWS)))
    point = single_label(labels, scores)
    labels, valid, scores = make_multi(ties)
    many = WeightedMetrics(labels, scores, valid)(np.ones((1, ROWS)))
    for fast, slow in ((one, point), (many, multi_label(labels, valid, scores))):
        assert {k: float(v[0]) for k, v in fast.overall.items()} == pytest.approx(
            {k: float(v) for k, v in slow.overall.items()}, **POINT
        )
        for name, values in fast.per_class.items():
            assert values[0] == pytest.approx(slow.per_class[name], **POINT), name


def test_agrees_with_torchmetrics_own_averages():
    """Where every class has both labels our means are the macro averages of the library."""
    labels, scores = make_single(ties=False)
    found = single_label(labels, scores).overall
    preds, target = torch.from_numpy(scores), torch.from_numpy(labels)
    library = {
        "auroc_macro": tm.MulticlassAUROC(CLASSES),
        "auprc_macro": tm.MulticlassAveragePrecision(CLASSES),
        "accuracy": tm.MulticlassAccuracy(CLASSES, average="micro"),
        "accuracy_balanced": tm.MulticlassAccuracy(CLASSES, average="macro"),
        "f1_macro": tm.MulticlassF1Score(CLASSES),
        "calibration_error": tm.MulticlassCalibrationError(CLASSES),
    }
    assert {k: float(v) for k, v in found.items()} == pytest.approx(
        {k: float(metric(preds, target)) for k, metric in library.items()}, **POINT
    )


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("kind", ["single", "multi"])
def test_weights_mean_repeated_rows(kind, ties):
    """Every metric under weights 0, 1, 2 ... is that of the data with rows repeated."""
    weights = np.random.default_rng(3).integers(4, size=(12, ROWS))
    weights[0] = np.arange(ROWS) == 5  # one row alone: most metrics do not exist
    if kind == "single":
        labels, scores = make_single(ties)
        valid = None
    else:
        labels, valid, scores = make_multi(ties)
    found = WeightedMetrics(labels, scores, valid)(weights.astype(float))
    for number, times in enumerate(weights):
        rows = np.repeat(np.arange(ROWS), times)
        if kind == "single":
            slow = single_label(labels[rows], scores[rows])
        else:
            slow = multi_label(labels[rows], valid[rows], scores[rows])
        assert {k: v[number] for k, v in found.overall.items()} == pytest.approx(
            {k: float(v) for k, v in slow.overall.items()}, **POINT
        )
        for name, values in found.per_class.items():
            assert values[number] == pytest.approx(slow.per_class[name], **POINT), name


def test_classes_without_both_labels_are_left_out_not_zero():
    labels, valid, scores = make_multi(ties=False)
    labels[:, 1] = 0
    labels[:, 3] = 1
    found = multi_label(labels, valid, scores)
    assert np.isnan(found.per_class["auroc"]).tolist() == [False, True, False, True]
    assert np.isnan(found.per_class["f1"]).tolist() == [False, True, False, True]
    assert float(found.overall["auroc_macro"]) == pytest.approx(found.per_class["auroc"][[0, 2]].mean())
    expected = expected_multi(labels, valid, scores)
    assert {k: float(v) for k, v in found.overall.items()} == pytest.approx(expected, **POINT)


def test_absent_class_of_single_label_data():
    labels, scores = make_single(ties=False)
    labels[labels == 2] = 0
    found = single_label(labels, scores)
    assert np.isnan(found.per_class["recall"]).tolist() == [False, False, True, False]
    assert {k: float(v) for k, v in found.overall.items()} == pytest.approx(expected_single(labels, scores), **POINT)


def test_decision_at_exactly_one_half_is_negative():
    labels, scores = np.array([[0.0], [1.0]]), np.array([[0.5], [0.5]])
    valid = np.ones((2, 1), dtype=bool)
    assert float(multi_label(labels, valid, scores).per_class["accuracy_balanced"][0]) == 0.5
    assert float(multi_label(labels, valid, scores).per_class["f1"][0]) == 0
    assert float(multi_label(labels, valid, scores).per_class["auroc"][0]) == 0.5


def test_nothing_known_gives_no_value_and_no_warning(recwarn):
    labels, scores = np.zeros((4, 2)), np.full((4, 2), 0.3)
    valid = np.zeros((4, 2), dtype=bool)
    points = multi_label(labels, valid, scores)
    fast = WeightedMetrics(labels, scores, valid)(np.ones((2, 4)))
    assert all(np.isnan(value) for value in points.overall.values())
    assert all(np.isnan(value).all() for value in fast.overall.values())
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]
