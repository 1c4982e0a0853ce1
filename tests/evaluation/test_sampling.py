import hashlib
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from domainvl.evaluation import evaluate
from domainvl.evaluation.probe import ProbeData, fit_logistic, linear_probe
from domainvl.evaluation.sampling import exclusive_sample, names_hash, patient_subsets
from domainvl.evaluation.thresholds import ThresholdedF1, choose

CLASSES = ["Edema", "Cardiomegaly", "Fracture"]


def findings(rows=300, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((rows, 3)) < 0.4).astype(float)
    return [f"i{n}" for n in range(rows)], [f"p{n}" for n in rng.integers(rows // 2, size=rows)], labels


def test_exclusive_images_of_different_patients_in_equal_number():
    ids, patients, labels = findings()
    found = exclusive_sample(ids, patients, labels, CLASSES, ["Cardiomegaly", "Edema"], per_class=20, seed=1)
    assert found.labels.tolist() == [0] * 20 + [1] * 20
    assert (labels[found.rows].sum(axis=1) == 1).all()
    assert labels[found.rows[:20], 1].all()
    assert labels[found.rows[20:], 0].all()
    for part in (found.rows[:20], found.rows[20:]):
        assert len({patients[row] for row in part}) == 20


def test_a_sample_depends_on_names_and_seed_alone():
    ids, patients, labels = findings()
    wanted = ["Edema", "Fracture"]
    first = exclusive_sample(ids, patients, labels, CLASSES, wanted, per_class=15)
    order = np.random.default_rng(1).permutation(len(ids))
    mixed = exclusive_sample(
        [ids[n] for n in order], [patients[n] for n in order], labels[order], CLASSES, wanted, per_class=15
    )
    assert [ids[order[row]] for row in mixed.rows] == [ids[row] for row in first.rows]
    assert mixed.digest == first.digest
    lines = sorted(f"{wanted[label]}\t{ids[row]}\n" for row, label in zip(first.rows, first.labels, strict=True))
    assert first.digest == hashlib.sha256("".join(lines).encode()).hexdigest()[:12]
    assert exclusive_sample(ids, patients, labels, CLASSES, wanted, per_class=15, seed=1).digest != first.digest
    # A smaller sample is the beginning of the larger one.
    small = exclusive_sample(ids, patients, labels, CLASSES, wanted, per_class=5)
    assert small.rows.tolist() == [*first.rows[:5], *first.rows[15:20]]


def test_what_is_not_known_may_be_positive():
    labels = np.array([[1.0, 0, 0], [1, 0, 0], [1, 0, 0]])
    valid = np.array([[True, True, True], [True, False, True], [True, True, True]])
    names = ["a", "b", "c"]
    found = exclusive_sample(names, names, labels, CLASSES, ["Edema"], per_class=2, valid=valid)
    assert sorted(found.rows.tolist()) == [0, 2]
    with pytest.raises(ValueError, match="only 2 patients have 'Edema' alone, 3 are asked for"):
        exclusive_sample(names, names, labels, CLASSES, ["Edema"], per_class=3, valid=valid)
    with pytest.raises(ValueError, match="one_per_patient=False"):
        exclusive_sample(names, ["p"] * 3, labels, CLASSES, ["Edema"], per_class=2)
    same = exclusive_sample(names, ["p"] * 3, labels, CLASSES, ["Edema"], per_class=2, one_per_patient=False)
    assert len(same.rows) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wanted": ["Oedema"]}, "wanted is Oedema; give different ones of Edema, Cardiomegaly, Fracture"),
        ({"wanted": []}, "wanted is empty"),
        ({"wanted": ["Edema", "Edema"]}, "different ones"),
        ({"per_class": 0}, "per_class is 0"),
        ({"patients": ["p"]}, "1 patients for 300 ids"),
    ],
)
def test_refused_samples(changes, message):
    ids, patients, labels = findings()
    arguments = {"ids": ids, "patients": patients, "labels": labels, "classes": CLASSES, "wanted": ["Edema"]}
    with pytest.raises(ValueError, match=message):
        exclusive_sample(**(arguments | {"per_class": 5} | changes))


def test_shares_of_patients_are_nested():
    patients = [f"p{n % 130}" for n in range(400)]
    few, some, everyone = patient_subsets(patients, seed=2)
    assert [part.patients for part in (few, some, everyone)] == [2, 13, 130]
    assert set(few.rows) < set(some.rows) < set(everyone.rows) == set(range(400))
    for part in (few, some):
        inside = {patients[row] for row in part.rows}
        assert len(inside) == part.patients
        assert len(part.rows) == sum(name in inside for name in patients)
        assert part.digest == names_hash(inside)
    assert patient_subsets(patients[::-1], seed=2)[1].digest == some.digest
    assert patient_subsets(patients, seed=3)[1].digest != some.digest
    assert patient_subsets([f"p{n}" for n in range(30)], [0.1])[0].patients == 3
    with pytest.raises(ValueError, match=r"fractions are \(0, 1\)"):
        patient_subsets(patients, (0, 1))


def probe_data(patients=120, seed=0, multilabel=True, noise=1.0, prefix=""):
    rng = np.random.default_rng(seed)
    owner = rng.integers(patients, size=2 * patients)
    features = rng.normal(size=(2 * patients, 6)).astype(np.float32) * [1, 5, 1, 0.2, 1, 1] + 3
    scores = (features[:, :3] - 3) / [1, 5, 1] + noise * rng.normal(size=(2 * patients, 3))
    labels = (scores > 0.3).astype(float) if multilabel else scores.argmax(axis=1)
    names = [f"{prefix}{seed}-{n}" for n in owner]
    return ProbeData([f"{prefix}{seed}-{n}" for n in range(2 * patients)], names, features, labels)


@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("multilabel", [True, False])
def test_logistic_regression_equals_scikit_learn(multilabel, strength):
    data = probe_data(60, multilabel=multilabel)
    features = data.features.astype(np.float64) - 3
    known = np.ones((120, 3), dtype=bool)
    if multilabel:
        known = np.random.default_rng(1).random((120, 3)) < 0.7
    weights = fit_logistic(features, data.labels, 3, strength, known)
    for column in range(3 if multilabel else 1):
        rows = known[:, column] if multilabel else slice(None)
        labels = data.labels[rows, column] if multilabel else data.labels
        oracle = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(features[rows], labels)
        if multilabel:
            assert weights[:-1, column] == pytest.approx(oracle.coef_[0], abs=1e-4)
            assert weights[-1, column] == pytest.approx(oracle.intercept_[0], abs=1e-4)
        else:
            assert pytest.approx(oracle.coef_, abs=1e-4) == weights[:-1].T
            found = weights[-1] - weights[-1].mean()
            assert found == pytest.approx(oracle.intercept_ - oracle.intercept_.mean(), abs=1e-4)


@pytest.mark.parametrize("multilabel", [True, False])
def test_probe_learns_more_from_more_patients(multilabel):
    parts = [probe_data(200, seed, multilabel, noise=0.5) for seed in range(3)]
    found = linear_probe(*parts, CLASSES, fractions=(0.1, 1.0), strengths=(1e-4, 1e-2, 1.0))
    assert [probe.subset.patients for probe in found] == [
        int(np.ceil(share * len(set(parts[0].patients)))) for share in (0.1, 1)
    ]
    scores = [evaluate(probe.predictions(parts[2], CLASSES), seed=0, resamples=20).zero_shot for probe in found]
    assert 0.75 < scores[0]["auroc_macro"].value < scores[1]["auroc_macro"].value
    for probe in found:
        assert probe.strength == min(probe.tried, key=probe.tried.get)
        assert (probe.thresholds is None) == (not multilabel)


def test_nothing_but_probabilities_comes_from_test():
    parts = [probe_data(80, seed) for seed in range(3)]
    first = linear_probe(*parts, CLASSES, fractions=(1.0,))[0]
    flipped = replace(parts[2], labels=1 - parts[2].labels)
    second = linear_probe(parts[0], parts[1], flipped, CLASSES, fractions=(1.0,))[0]
    assert first.strength == second.strength
    assert (first.thresholds == second.thresholds).all()
    assert (first.probabilities == second.probabilities).all()
    # A scale and an offset of features change nothing.
    moved = [replace(part, features=part.features * 7 - 2) for part in parts]
    assert linear_probe(*moved, CLASSES, fractions=(1.0,))[0].probabilities == pytest.approx(
        first.probabilities, abs=1e-5
    )


def test_probe_refuses():
    parts = [probe_data(80, seed) for seed in range(3)]
    with pytest.raises(ValueError, match="1 patients are in train and in test"):
        linear_probe(*parts[:2], replace(parts[2], patients=[parts[0].patients[0], *parts[2].patients[1:]]), CLASSES)
    with pytest.raises(ValueError, match=r"1 % of the training patients lack a label of .*Fracture"):
        linear_probe(replace(parts[0], labels=parts[0].labels * [1, 1, 0]), *parts[1:], CLASSES)
    with pytest.raises(ValueError, match="NaN or infinity"):
        replace(parts[0], features=np.full((160, 6), np.nan))
    with pytest.raises(ValueError, match="give the same to all splits"):
        linear_probe(replace(parts[0], features=parts[0].features[:, :5]), *parts[1:], CLASSES)
    assert "p" not in repr(parts[0]).replace("ProbeData", "")


@pytest.mark.parametrize("rule", ["f1", "youden"])
def test_thresholds_equal_a_search(rule):
    rng = np.random.default_rng(0)
    labels = (rng.random((80, 3)) < 0.3).astype(float)
    scores = (labels + rng.normal(size=(80, 3))).round(1)
    valid = rng.random((80, 3)) < 0.8
    found = choose(labels, scores, valid, rule)
    for column in range(3):
        truth, own = labels[valid[:, column], column], scores[valid[:, column], column]

        def value(threshold, truth=truth, own=own):
            called = own > threshold
            if rule == "f1":
                return f1_score(truth, called)
            return called[truth == 1].mean() - called[truth == 0].mean()

        best = max(value(threshold) for threshold in [-99, *own])
        assert value(found[column]) == pytest.approx(best)
        assert found[column] not in own


def test_thresholds_at_the_edges():
    labels, scores = np.array([[1.0, 1, 0], [1, 0, 0], [0, 1, 0]]), np.array([[0.5, 0.2, 0.1]] * 3)
    found = choose(labels, scores)
    assert found[0] < 0.5
    assert found[1] < 0.2
    assert np.isnan(found[2])
    with pytest.raises(ValueError, match="rule is 'best'"):
        choose(labels, scores, rule="best")


def test_f1_at_given_thresholds():
    rng = np.random.default_rng(1)
    labels, scores = (rng.random((50, 3)) < 0.4).astype(float), rng.random((50, 3))
    limits = np.array([0.3, 0.6, np.nan])
    metric = ThresholdedF1(labels, scores, limits, CLASSES)
    values = metric.values()
    expected = [f1_score(labels[:, n], scores[:, n] > limits[n]) for n in range(2)]
    assert [values["f1_tuned:Edema"], values["f1_tuned:Cardiomegaly"]] == pytest.approx(expected)
    assert np.isnan(values["f1_tuned:Fracture"])
    assert values["f1_macro_tuned"] == pytest.approx(np.mean(expected))
    assert values["f1_weighted_tuned"] == pytest.approx(np.average(expected, weights=labels[:, :2].sum(axis=0)))
    weights = rng.integers(0, 3, size=(1, 50)).astype(float)
    rows = np.repeat(np.arange(50), weights[0].astype(int))
    assert metric(weights)["f1_tuned:Edema"][0] == pytest.approx(f1_score(labels[rows, 0], scores[rows, 0] > 0.3))
