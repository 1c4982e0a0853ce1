"""Protocols of findings: the right classes, the right rows, thresholds that never saw the test."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from domainvl.evaluation import CT_RATE_16, CT_RATE_18, FindingProtocol, Predictions, evaluate_findings
from domainvl.evaluation.thresholds import choose
from domainvl.samples.ct import FINDINGS

TOY = FindingProtocol("toy", ("Lung nodule", "Pleural effusion"))


def predictions(rows=80, patients=40, seed=0, start=0, shift=0.0, classes=("Pleural_Effusion", "Other", "lung-nodule")):
    rng = np.random.default_rng(seed)
    owner = np.sort(rng.integers(patients, size=rows)) + start
    labels = rng.integers(2, size=(rows, len(classes)))

    def scores(gain):
        return 1 / (1 + np.exp(-gain * (labels - 0.5) - shift + rng.normal(size=labels.shape)))

    return Predictions(
        [f"v{start + n}" for n in range(rows)],
        [f"p{n}" for n in owner],
        list(classes),
        True,
        labels,
        rng.random(labels.shape) > 0.1,
        scores(0.5),
        scores(2.0),
    )


def test_classes_are_those_of_the_papers():
    assert len(CT_RATE_18.classes) == 18
    assert len(CT_RATE_16.classes) == 16
    assert set(CT_RATE_18.classes) - set(CT_RATE_16.classes) == {"Medical material", "Lymphadenopathy"}
    assert CT_RATE_18.title == "CT-RATE-18, by volume"
    assert replace(CT_RATE_16, unit="scan").title == "CT-RATE-16, by scan"


def test_columns_follow_the_protocol_whatever_they_are_called_and_wherever_they_stand():
    given = predictions()
    found = TOY.apply(given)
    assert found.classes == ["Lung nodule", "Pleural effusion"]
    for name in ("labels", "valid", "zero_shot", "adapted"):
        np.testing.assert_array_equal(getattr(found, name), getattr(given, name)[:, [2, 0]])
    renamed = replace(given, classes=["Fluid", "Other", "lung-nodule"])
    assert TOY.columns(renamed.classes, {"Pleural effusion": "fluid"}) == [2, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CT_RATE_18.columns(["Emphysema"]), "17 of its 18 classes are not there: Medical material"),
        (lambda: TOY.columns(["a"], {"Cyst": "a"}), "spellings name Cyst, which it does not have"),
        (lambda: TOY.columns(["lung nodule", "Lung_nodule"]), "two of the classes read the same"),
        (lambda: TOY.shared(["Cyst"]), "none of its classes"),
        (lambda: FindingProtocol("x", ("a", "A")), "name each once"),
        (lambda: FindingProtocol("x", ("a",), unit="patient"), "choose 'volume' or 'scan'"),
        (lambda: FindingProtocol("x", ("a",), rule="accuracy"), "choose 'f1' or 'youden'"),
        (lambda: TOY.apply(replace(predictions(), labels=None, valid=None)), "multi-label predictions with labels"),
        (lambda: replace(TOY, unit="scan").apply(predictions()), "give the scan of each of 80 rows"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_part_of_a_protocol_says_so():
    part = CT_RATE_18.shared(FINDINGS)
    assert part.name == "CT-RATE-18 (7 of 18 classes)"
    assert set(part.classes) == set(FINDINGS) & set(CT_RATE_18.classes)
    assert CT_RATE_16.shared(CT_RATE_18.classes) is CT_RATE_16


def reconstructed(given, times):
    """Each row several times, scores moved apart about their mean."""
    rows = np.repeat(np.arange(len(given)), times)
    number = np.concatenate([np.arange(count) for count in times])
    apart = (number - (times[rows] - 1) / 2)[:, None] * 0.01
    return replace(
        given,
        ids=[f"{given.ids[row]}.{n}" for row, n in zip(rows, number, strict=True)],
        patients=[given.patients[row] for row in rows],
        labels=given.labels[rows],
        valid=given.valid[rows],
        zero_shot=np.clip(given.zero_shot, 0.1, 0.9)[rows] + apart,
        adapted=np.clip(given.adapted, 0.1, 0.9)[rows] + apart,
    ), [given.ids[row] for row in rows]


def test_reconstructions_of_a_scan_count_once():
    given = predictions(seed=3)
    times = np.random.default_rng(1).integers(1, 4, len(given))
    many, scans = reconstructed(given, times)
    order = np.random.default_rng(2).permutation(len(many))
    many = replace(
        many,
        ids=[many.ids[row] for row in order],
        patients=[many.patients[row] for row in order],
        **{name: getattr(many, name)[order] for name in ("labels", "valid", "zero_shot", "adapted")},
    )
    found = replace(TOY, unit="scan").apply(many, [scans[row] for row in order])
    expected = TOY.apply(given)
    back = [expected.ids.index(name) for name in found.ids]
    assert sorted(back) == list(range(len(given)))
    assert found.patients == [expected.patients[row] for row in back]
    np.testing.assert_array_equal(found.known, expected.known[back])
    np.testing.assert_array_equal(found.labels[found.known], expected.labels[back][found.known])
    np.testing.assert_allclose(found.adapted, np.clip(expected.adapted, 0.1, 0.9)[back], atol=1e-12)
    assert len(TOY.apply(many)) == times.sum()


@pytest.mark.parametrize("what", ["labels", "patients"])
def test_what_is_no_scan_is_refused(what):
    given = predictions()
    scans = list(given.ids)
    partner = next(n for n in range(1, len(given)) if given.patients[n] != given.patients[0])
    scans[partner] = scans[0]
    if what == "labels":
        given = replace(given, patients=["p"] * len(given), labels=given.labels.copy(), valid=None)
        given.labels[partner] = 1 - given.labels[0]
    else:
        given = replace(given, labels=np.zeros_like(given.labels), valid=None)
    with pytest.raises(ValueError, match="different labels, or of different patients"):
        replace(TOY, unit="scan").apply(given, scans)


@pytest.mark.parametrize("rule", ["f1", "youden"])
def test_thresholds_are_of_validation_and_numbers_of_the_test(rule):
    protocol = replace(TOY, rule=rule)
    test = protocol.apply(predictions(200, 90, seed=1, shift=0.8))
    validation = protocol.apply(predictions(150, 60, seed=2, start=1000))
    result = evaluate_findings(protocol, test, validation, seed=0, resamples=100)
    for model in ("zero_shot", "adapted"):
        expected = choose(validation.labels, getattr(validation, model), validation.valid, rule)
        np.testing.assert_array_equal(result.thresholds[model], expected)
        each = []
        for column, name in enumerate(protocol.classes):
            known = test.valid[:, column]
            called = getattr(test, model)[known, column] > expected[column]
            each.append(f1_score(test.labels[known, column], called))
            assert result.tuned[model][f"f1_tuned:{name}"].value == pytest.approx(each[-1])
        macro = result.tuned[model]["f1_macro_tuned"]
        assert macro.value == pytest.approx(np.mean(each))
        assert macro.low < macro.value < macro.high
    changed = evaluate_findings(protocol, replace(test, labels=1 - test.labels), validation, seed=0, resamples=2)
    np.testing.assert_array_equal(changed.thresholds["adapted"], result.thresholds["adapted"])
    aucs = [roc_auc_score(test.labels[test.valid[:, c], c], test.adapted[test.valid[:, c], c]) for c in range(2)]
    assert result.evaluation.adapted["auroc_macro"].value == pytest.approx(np.mean(aucs))


def test_what_would_look_at_the_test_is_refused():
    test, validation = TOY.apply(predictions()), TOY.apply(predictions(seed=1, start=1000))
    with pytest.raises(ValueError, match="patients are in test and in validation"):
        evaluate_findings(TOY, test, test, seed=0)
    with pytest.raises(ValueError, match="validation has no labels of just the classes of toy"):
        evaluate_findings(TOY, test, predictions(seed=1, start=1000), seed=0)
    with pytest.raises(ValueError, match="one of test and validation has no adapted model"):
        evaluate_findings(TOY, test, replace(validation, adapted=None), seed=0)


def test_a_class_without_both_labels_in_validation_has_no_threshold():
    test, validation = TOY.apply(predictions()), TOY.apply(predictions(seed=1, start=1000))
    validation.labels[:, 1] = 0
    result = evaluate_findings(TOY, test, validation, seed=0, resamples=5)
    assert np.isnan(result.thresholds["adapted"][1])
    assert result.tuned["adapted"]["f1_tuned:Pleural effusion"].value is None
    single = result.tuned["adapted"]
    assert single["f1_macro_tuned"].value == single["f1_tuned:Lung nodule"].value
