import numpy as np
import pytest

from domainvl.evaluation import Predictions, evaluate, write_predictions
from domainvl.evaluation.curves import GRID, PrecisionRecall, Roc, bands, reliability
from domainvl.evaluation.saved import read_predictions


def drawn(rows=80, seed=0, ties=False):
    draw = np.random.default_rng(seed)
    positive = draw.random(rows) < 0.4
    scores = draw.normal(size=rows) + positive
    known = draw.random(rows) < 0.9
    return positive, known, np.round(scores) if ties else scores


@pytest.mark.parametrize("ties", [False, True])
def test_areas_are_those_of_scikit_learn(ties):
    from sklearn.metrics import average_precision_score, roc_auc_score

    positive, known, scores = drawn(ties=ties)
    ones = np.ones((1, len(scores)))
    x, y = Roc(positive, known, scores).corners(ones)
    assert np.trapezoid(y[0], x[0]) == pytest.approx(roc_auc_score(positive[known], scores[known]))
    recall, precision = PrecisionRecall(positive, known, scores).corners(ones)
    steps = np.diff(recall[0], prepend=0)
    assert steps @ precision[0] == pytest.approx(average_precision_score(positive[known], scores[known]))


@pytest.mark.parametrize("kind", [Roc, PrecisionRecall])
def test_a_weight_is_a_repeated_row(kind):
    positive, known, scores = drawn(ties=True)
    weights = np.random.default_rng(1).integers(4, size=(3, len(scores)))
    found = kind(positive, known, scores)(weights.astype(np.float64))
    for row, times in zip(found, weights, strict=True):
        repeated = (np.repeat(part, times) for part in (positive, known, scores))
        alone = kind(*repeated)
        assert row == pytest.approx(alone(np.ones((1, times.sum())))[0])


@pytest.mark.parametrize("kind", [Roc, PrecisionRecall])
def test_a_class_without_positives_has_no_curve(kind):
    positive, known, scores = drawn()
    assert np.isnan(kind(positive & False, known, scores)(np.ones((2, len(scores))))).all()


def test_bands_hold_the_curve_and_are_narrower_with_more_patients():
    widths = []
    for rows in (60, 600):
        positive, known, scores = drawn(rows)
        curve = Roc(positive, known, scores)
        patients = [str(row // 2) for row in range(rows)]
        ((low, high),) = bands([curve], patients, resamples=200, seed=1)
        point = curve(np.ones((1, rows)))[0]
        # The ends are pinned, and a percentile of steps may miss a step by one grid point.
        assert ((low - 0.05 <= point) & (point <= high + 0.05)).all()
        widths.append((high - low).mean())
    assert widths[1] < 0.6 * widths[0]
    assert len(low) == len(GRID)


def test_bands_draw_patients_not_images():
    positive, known, scores = drawn(60)
    one = bands([Roc(positive, known, scores)], [str(row) for row in range(60)], resamples=300, seed=1)
    copies = [np.tile(part, 6) for part in (positive, known, scores)]
    six = bands([Roc(*copies)], [str(row % 60) for row in range(360)], resamples=300, seed=1)
    assert six[0][0] == pytest.approx(one[0][0])
    assert six[0][1] == pytest.approx(one[0][1])


def table(multilabel, adapted=True, rows=60):
    draw = np.random.default_rng(3)
    scores = draw.random((2, rows, 3)).astype(np.float32)
    if not multilabel:
        scores /= scores.sum(axis=-1, keepdims=True)
    return Predictions(
        ids=[f"i{row}" for row in range(rows)],
        patients=[f"p{row // 2}" for row in range(rows)],
        classes=["A: b", "C", "label"],
        multilabel=multilabel,
        labels=draw.integers(2, size=(rows, 3)) if multilabel else draw.integers(3, size=rows),
        valid=draw.random((rows, 3)) < 0.8 if multilabel else None,
        zero_shot=scores[0],
        adapted=scores[1] if adapted else None,
    )


def test_reliability_is_what_the_calibration_error_sums():
    single = table(False)
    found = reliability(single, single.adapted)
    error = (found.count / found.count.sum()) @ np.abs(found.seen - found.said)
    assert error == pytest.approx(evaluate(single, seed=0, resamples=2).adapted["calibration_error"].value, abs=1e-6)
    several = table(True)
    assert reliability(several, several.adapted).count.sum() == several.known.sum()


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("multilabel", [False, True])
def test_predictions_come_back_from_disk(tmp_path, multilabel, adapted):
    made = table(multilabel, adapted)
    write_predictions(tmp_path / "predictions.csv", made)
    saved = read_predictions(tmp_path / "predictions.csv", made.classes)
    found = saved.classes
    assert (found.ids, found.patients, found.multilabel) == (made.ids, made.patients, multilabel)
    assert (found.zero_shot == made.zero_shot).all()
    assert (found.adapted is None) is not adapted
    assert (found.known == made.known).all()
    assert (
        (np.where(made.known, found.labels, 0) == np.where(made.known, made.labels, 0)).all()
        if multilabel
        else (found.labels == made.labels).all()
    )
    assert evaluate(found, seed=1, resamples=5) == evaluate(made, seed=1, resamples=5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,zero_shot:A\nx,0.5\n", "no predictions.csv"),
        ("id,patient,label,zero_shot:A,zero_shot:B\nx,p,A,0.5,0.5,7\n", "no predictions.csv"),
        ("id,patient,label,zero_shot:A\nx,p,A,0.5\n", "no column zero_shot:B"),
        ("id,patient,label,zero_shot:A,zero_shot:B\nx,p,Z,0.5,0.5\n", "none of the run's classes"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, text, said):
    (tmp_path / "predictions.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_predictions(tmp_path / "predictions.csv", ["A", "B"])
