from dataclasses import replace

import numpy as np
import pytest

from domainvl.evaluation import Predictions

SCORES = np.array([[0.2, 0.8], [0.6, 0.4], [0.5, 0.5]])


def single(**changes):
    fields = {
        "ids": ["a", "b", "c"],
        "patients": ["p", "p", "q"],
        "classes": ["cat", "dog"],
        "multilabel": False,
        "labels": np.array([1, 0, 0]),
        "valid": None,
        "zero_shot": SCORES,
        "adapted": None,
    }
    return Predictions(**(fields | changes))


def multi(**changes):
    return single(**({"multilabel": True, "labels": np.array([[0.0, 1], [1, 1], [0, 0]])} | changes))


def with_value(row, column, value):
    scores = SCORES.copy()
    scores[row, column] = value
    return scores


REFUSED = {
    "nan": (single, {"zero_shot": with_value(1, 0, np.nan)}, r"zero_shot of row 1 \(id 'b'\) holds nan"),
    "nan adapted": (multi, {"adapted": with_value(2, 1, np.nan)}, r"adapted of row 2 \(id 'c'\) holds nan"),
    "infinite": (multi, {"zero_shot": with_value(0, 0, np.inf)}, r"row 0 .* holds inf, outside 0\.\.1"),
    "logits": (multi, {"zero_shot": with_value(2, 0, -3.5)}, r"row 2 .* holds -3.5, outside 0\.\.1"),
    "sigmoid for softmax": (single, {"zero_shot": with_value(1, 1, 0.9)}, r"row 1 \(id 'b'\) sums to 1.5000"),
    "one row short": (single, {"zero_shot": SCORES[:2]}, r"zero_shot is float64 \(2, 2\), expected floats \(3, 2\)"),
    "integer scores": (multi, {"zero_shot": SCORES.astype(int)}, "expected floats"),
    "one class more": (single, {"adapted": np.full((3, 3), 1 / 3)}, r"adapted is float64 \(3, 3\)"),
    "repeated id": (single, {"ids": ["a", "b", "a"]}, "ids occur more than once: 'a'; .*distributed"),
    "repeated class": (single, {"classes": ["cat", "cat"]}, "classes occur more than once: 'cat'"),
    "patients short": (single, {"patients": ["p"]}, "1 patients for 3 ids"),
    "empty patient": (single, {"patients": ["p", "", "q"]}, r"row 1 \(id 'b'\) has an empty patient"),
    "empty": (single, {"ids": [], "patients": []}, "no rows"),
    "label out of range": (single, {"labels": np.array([0, 1, 2])}, r"label 2 of row 2 \(id 'c'\) is not in 0\.\.1"),
    "label -1": (single, {"labels": np.array([0, -1, 1])}, "label -1 of row 1"),
    "float label": (single, {"labels": np.array([0.0, 1, 1])}, "expected integers"),
    "single labels for multi": (multi, {"labels": np.array([0, 1, 1])}, r"labels are \(3,\), expected \(3, 2\)"),
    "label nan": (
        multi,
        {"labels": np.array([[0, 1], [np.nan, 1], [0, 0]])},
        "label nan of row 1 .* class 'cat', is not 0 or 1",
    ),
    "label uncertain": (multi, {"labels": np.array([[0, 1], [1, -1], [0, 0]])}, "label -1 of row 1 .* class 'dog'"),
    "valid for single": (single, {"valid": np.ones((3, 2), dtype=bool)}, "valid is for multi-label"),
    "valid shape": (multi, {"valid": np.ones(3, dtype=bool)}, r"valid is bool \(3,\), expected bool \(3, 2\)"),
    "valid type": (multi, {"valid": np.ones((3, 2))}, "expected bool"),
}


@pytest.mark.parametrize(("make", "changes", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_unknown_labels_may_hold_anything():
    labels = np.array([[0, 1], [np.nan, 1], [-1, 0]])
    predictions = multi(labels=labels, valid=np.isin(labels, (0, 1)))
    assert predictions.known.sum() == 4
    assert len(predictions) == 3


def test_half_precision_softmax_passes():
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(100), size=3)
    rounded = (scores * 256).round() / 256  # coarser than bfloat16
    rounded[:, 0] += 1 - rounded.sum(axis=1) + 0.01
    made = single(zero_shot=rounded, classes=[str(i) for i in range(100)], labels=np.array([0, 1, 2]))
    assert replace(made, labels=None).known.sum() == 0
