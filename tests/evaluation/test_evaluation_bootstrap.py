import time

import numpy as np
import pytest

from domainvl.evaluation import Interval, Predictions, evaluate
from domainvl.evaluation import bootstrap as module
from domainvl.evaluation.bootstrap import interval, patient_weights
from domainvl.evaluation.metrics import multi_label, single_label


def planted(patients, images, seed, gap=0.8, spread=0.7, classes=2, per_patient=None):
    """Multi-label data whose scores are the label plus a patient's own shift plus noise."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, images + 1, size=patients) if per_patient is None else np.full(patients, per_patient)
    owner = np.repeat(np.arange(patients), counts)
    rows = len(owner)
    disease = rng.random((patients, classes)) < 0.4
    labels = (disease[owner] ^ (rng.random((rows, classes)) < 0.1)).astype(float)

    def scores(gain):
        shift = spread * rng.normal(size=(patients, classes))[owner]
        return 1 / (1 + np.exp(-(gain * labels + shift + rng.normal(size=(rows, classes)))))

    return Predictions(
        ids=[f"i{n}" for n in range(rows)],
        patients=[f"p{n}" for n in owner],
        classes=[f"c{n}" for n in range(classes)],
        multilabel=True,
        labels=labels,
        valid=None,
        zero_shot=scores(gap / 2),
        adapted=scores(gap),
    )


def test_patients_are_drawn_whole():
    patients = ["b", "a", "b", "c", "a", "b"]
    weights = np.concatenate(list(patient_weights(patients, 400, seed=0)))
    assert weights.shape == (400, 6)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 0] == weights[:, 5]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    drawn = weights[:, [1, 0, 3]]  # a, b, c
    assert (drawn.sum(axis=1) == 3).all()
    # Draws with replacement: each count is Binomial(3, 1/3), mean 1 and variance 2/3.
    assert drawn.mean(axis=0) == pytest.approx(np.ones(3), abs=0.15)
    assert drawn.var(axis=0) == pytest.approx(np.full(3, 2 / 3), abs=0.15)


def test_draws_depend_on_seed_alone(monkeypatch):
    patients = [f"p{n % 7}" for n in range(20)]
    whole = np.concatenate(list(patient_weights(patients, 50, seed=4)))
    order = np.random.default_rng(0).permutation(20)
    shuffled = np.concatenate(list(patient_weights([patients[i] for i in order], 50, seed=4)))
    monkeypatch.setattr(module, "_CELLS", 60)
    chunks = list(patient_weights(patients, 50, seed=4))
    assert len(chunks) == 17
    assert (np.concatenate(chunks) == whole).all()
    assert (shuffled == whole[:, order]).all()
    assert (np.concatenate(list(patient_weights(patients, 50, seed=5))) != whole).any()


@pytest.mark.parametrize(("resamples", "seed", "message"), [(0, 0, "resamples is 0"), (5, -1, "seed is -1")])
def test_refused_arguments(resamples, seed, message):
    with pytest.raises(ValueError, match=message):
        list(patient_weights(["a"], resamples, seed))


@pytest.mark.parametrize("multilabel", [True, False])
def test_equals_a_naive_loop(multilabel):
    """Repeat the rows of every drawn patient, score the copies, take percentiles: nothing shared but the draws."""
    data = planted(patients=9, images=4, seed=1, classes=3)
    scores = [data.zero_shot.round(1), data.adapted.round(1)]
    labels = data.labels
    if not multilabel:
        scores = [values / values.sum(axis=1, keepdims=True) for values in scores]
        labels = np.argmax(labels + 0.1 * np.arange(3), axis=1)
    data = Predictions(data.ids, data.patients, data.classes, multilabel, labels, None, *scores)
    found = evaluate(data, seed=11, resamples=60)

    naive = {"zero_shot": [], "adapted": [], "difference": []}
    for weights in np.concatenate(list(patient_weights(data.patients, 60, seed=11))):
        rows = np.repeat(np.arange(len(data)), weights.astype(int))
        values = []
        for probability in scores:
            if multilabel:
                one = multi_label(labels[rows], np.ones_like(labels[rows], dtype=bool), probability[rows])
            else:
                one = single_label(labels[rows], probability[rows])
            values.append({name: float(value) for name, value in one.overall.items()})
        naive["zero_shot"].append(values[0])
        naive["adapted"].append(values[1])
        naive["difference"].append({name: values[1][name] - values[0][name] for name in values[0]})
    for model, samples in naive.items():
        for name, value in getattr(found, model).items():
            drawn = np.array([sample[name] for sample in samples])
            low, high = np.percentile(drawn[~np.isnan(drawn)], [2.5, 97.5])
            assert (value.low, value.high) == pytest.approx((low, high), abs=1e-6), (model, name)
    assert found.difference["auroc_macro"].value == pytest.approx(
        found.adapted["auroc_macro"].value - found.zero_shot["auroc_macro"].value
    )


def test_pairing_narrows_the_difference():
    data = planted(patients=60, images=3, seed=2)
    # A model that is the other one, a little better on positives: nearly all variation is shared.
    nudged = np.clip(data.zero_shot + 0.02 * data.labels, 0, 1)
    result = evaluate(Predictions(**(vars(data) | {"adapted": nudged})), seed=0, resamples=300)
    change, level = result.difference["auroc_macro"], result.adapted["auroc_macro"]
    assert change.high - change.low < 0.3 * (level.high - level.low)
    same = evaluate(Predictions(**(vars(data) | {"adapted": data.zero_shot})), seed=0, resamples=50)
    assert set(same.difference.values()) == {Interval(0.0, 0.0, 0.0)}


def test_many_images_per_patient_widen_the_interval():
    data = planted(patients=25, images=12, seed=3, per_patient=12)
    by_patient = evaluate(data, seed=0, resamples=300).adapted["auroc_macro"]
    by_image = evaluate(Predictions(**(vars(data) | {"patients": data.ids})), seed=0, resamples=300)
    narrow = by_image.adapted["auroc_macro"]
    assert by_patient.value == narrow.value
    assert by_patient.high - by_patient.low > 1.4 * (narrow.high - narrow.low)


def test_coverage_is_near_nominal():
    """Intervals of made-up studies hold the truth about 95 times in 100; by image, far less often."""
    study = {"patients": 50, "images": 6, "gap": 1.0, "spread": 0.8}
    world = evaluate(planted(**(study | {"patients": 20000}), seed=99), seed=0, resamples=1)
    truth = {"adapted": world.adapted["auroc_macro"].value, "difference": world.difference["auroc_macro"].value}
    studies, inside, by_image = 120, dict.fromkeys(truth, 0), 0
    for seed in range(studies):
        data = planted(**study, seed=seed)
        result = evaluate(data, seed=seed, resamples=200)
        for model, value in truth.items():
            found = getattr(result, model)["auroc_macro"]
            inside[model] += found.low <= value <= found.high
        if seed < 60:
            result = evaluate(Predictions(**(vars(data) | {"patients": data.ids})), seed=seed, resamples=100)
            found = result.adapted["auroc_macro"]
            by_image += found.low <= truth["adapted"] <= found.high
    # 120 studies at 95 %: standard error 2 points.
    assert all(0.89 <= count / studies <= 0.995 for count in inside.values()), inside
    assert by_image / 60 < min(inside.values()) / studies


def test_one_patient_has_no_interval():
    data = planted(patients=1, images=9, seed=5, per_patient=9)
    labels = data.labels.copy()
    labels[:4], labels[4:] = 0, 1
    result = evaluate(Predictions(**(vars(data) | {"labels": labels})), seed=0)
    found = result.adapted["auroc_macro"]
    assert found.value is not None
    assert (found.low, found.high) == (None, None)
    assert result.difference["accuracy"].low is None
    assert result.resamples == 0
    assert any("one patient" in note for note in result.notes)


def test_class_of_one_patient_has_no_interval_and_is_noted():
    data = planted(patients=30, images=3, seed=6)
    labels = data.labels.copy()
    labels[:, 0] = np.array(data.patients) == "p3"
    result = evaluate(Predictions(**(vars(data) | {"labels": labels})), seed=0, resamples=200)
    alone, other = result.per_class["c0"].adapted["auroc"], result.per_class["c1"].adapted["auroc"]
    assert alone.value is not None
    assert alone.low is None
    assert other.low is not None
    assert any("one patient's: c0" in note for note in result.notes)
    # 30 patients: the one with the finding is missing from about 36 % of the resamples.
    (lost,) = [note for note in result.notes if "lost a label" in note]
    assert 40 < int(lost.rstrip(".").split("c0 ")[1]) < 105


@pytest.mark.parametrize(("patients", "few", "calibration"), [(19, True, True), (20, False, True), (500, False, False)])
def test_small_sets_are_noted(patients, few, calibration):
    notes = " ".join(evaluate(planted(patients, 2, seed=0), seed=0, resamples=5).notes)
    assert (f"Only {patients} patients" in notes) == few
    assert ("Calibration error and its interval read too high" in notes) == calibration


def test_interval_edge_cases():
    nan = float("nan")
    assert interval(nan, np.zeros(3)) == Interval(None, None, None)
    assert interval(0.5, None) == Interval(0.5, None, None)
    assert interval(0.5, np.array([nan, nan])) == Interval(0.5, None, None)
    found = interval(0.5, np.append(np.linspace(0, 1, 1001), nan))
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.025, 0.975))


def test_progress_reaches_the_end():
    seen = []
    evaluate(planted(20, 3, seed=0), seed=0, resamples=30, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (30, 30)


def test_a_thousand_resamples_take_seconds():
    """Six classes, 700 images, two models; the bound is twenty times what one quiet core takes."""
    data = planted(patients=175, images=4, seed=0, classes=6, per_patient=4)
    start = time.process_time()
    evaluate(data, seed=0, resamples=1000)
    assert time.process_time() - start < 5
