import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import roc_auc_score

from domainvl.evaluation import METRICS, Predictions, evaluate, print_table, write_metrics, write_predictions

HASHES = {"split": "aaa", "preset": "bbb", "backbone": "ccc"}
CLASSES = ["Cardiomegaly", "Pleural Effusion, small", 'Lung "Lesion" [left]']


def reject(name):
    raise AssertionError(f"{name} is not JSON")


def make(multilabel=True, rows=60, patients=25, dtype=np.float32):
    rng = np.random.default_rng(0)
    owner = rng.integers(patients, size=rows)
    labels = rng.integers(2, size=(rows, 3)).astype(float) if multilabel else rng.integers(3, size=rows)
    truth = labels if multilabel else np.eye(3)[labels]

    def scores(gain):
        odds = np.exp(gain * truth + rng.normal(size=(rows, 3)))
        return (odds / (1 + odds) if multilabel else odds / odds.sum(axis=1, keepdims=True)).astype(dtype)

    valid = rng.random((rows, 3)) > 0.15 if multilabel else None
    return Predictions(
        [f"i{n}" for n in range(rows)],
        [f"p{n}" for n in owner],
        CLASSES,
        multilabel,
        labels,
        valid,
        scores(0.3),
        scores(2),
    )


@pytest.fixture(scope="module")
def evaluation():
    return evaluate(make(), seed=1, resamples=50)


def test_metrics_file_has_the_published_shape(tmp_path, evaluation):
    path = tmp_path / "metrics.json"
    write_metrics(path, evaluation, split="test", hashes=HASHES, seed=7, extra={"shots": 4})
    found = json.loads(path.read_text(), parse_constant=reject)
    assert found["split"] == "test"
    assert found["seed"] == 7
    assert found["hashes"] == HASHES
    assert found["shots"] == 4
    assert found["n"] == {"images": 60, "patients": len(set(make().patients))}
    assert found["versions"].keys() >= {"domainvl", "torch", "torchmetrics", "numpy", "python"}
    for model in ("zero_shot", "adapted", "difference"):
        assert list(found[model]) == list(METRICS)
        for value in found[model].values():
            assert list(value) == ["value", "low", "high"]
            assert value["low"] <= value["high"]
    assert found["adapted"]["auroc_macro"]["value"] > found["zero_shot"]["auroc_macro"]["value"]
    assert list(found["per_class"]) == CLASSES
    assert found["per_class"][CLASSES[0]]["adapted"]["auroc"]["low"] > 0.5
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_zero_shot_run_has_null_for_adapted(tmp_path):
    path = tmp_path / "metrics.json"
    write_metrics(path, evaluate(replace(make(), adapted=None), seed=0, resamples=20), split="x", hashes=HASHES, seed=0)
    found = json.loads(path.read_text())
    assert found["adapted"] is None
    assert found["difference"] is None
    assert found["per_class"][CLASSES[0]]["adapted"] is None
    assert found["zero_shot"]["accuracy"]["value"] > 0


def test_class_without_both_labels_is_null_and_noted(tmp_path):
    data = make()
    labels = data.labels.copy()
    labels[:, 1] = 0
    result = evaluate(replace(data, labels=labels), seed=0, resamples=20)
    path = tmp_path / "metrics.json"
    write_metrics(path, result, split="x", hashes=HASHES, seed=0)
    found = json.loads(path.read_text(), parse_constant=reject)
    lacking = found["per_class"][CLASSES[1]]
    assert lacking["n_positive"] == 0
    assert lacking["n_negative"] == int(data.valid[:, 1].sum())
    assert lacking["adapted"]["auroc"] == {"value": None, "low": None, "high": None}
    assert lacking["difference"]["auprc"]["value"] is None
    others = [found["per_class"][name]["adapted"]["auroc"]["value"] for name in (CLASSES[0], CLASSES[2])]
    assert found["adapted"]["auroc_macro"]["value"] == pytest.approx(np.mean(others))
    assert any(f"{CLASSES[1]} (0 positive" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hashes": {"split": "a"}}, "hashes lack preset, backbone; got split"),
        ({"extra": {"seed": 3}}, "extra would overwrite seed"),
        ({"extra": {"zero_shot": 3}}, "extra would overwrite zero_shot"),
    ],
)
def test_metrics_refuses(tmp_path, evaluation, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_metrics(tmp_path / "m.json", evaluation, **({"split": "x", "hashes": HASHES, "seed": 0} | arguments))


def test_nan_in_extra_becomes_null(tmp_path, evaluation):
    path = tmp_path / "metrics.json"
    extra = {"loss": float("nan"), "curve": [np.float64("inf"), np.int64(3)]}
    write_metrics(path, evaluation, split="x", hashes=HASHES, seed=0, extra=extra)
    found = json.loads(path.read_text(), parse_constant=reject)
    assert (found["loss"], found["curve"]) == (None, [None, 3])


def test_interrupted_write_leaves_the_old_file(tmp_path, evaluation):
    path = tmp_path / "metrics.json"
    path.write_text("old")
    with pytest.raises(TypeError):
        write_metrics(path, evaluation, split="x", hashes=HASHES, seed=0, extra={"thing": object()})
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_no_labels_is_refused_but_written(tmp_path):
    data = replace(make(), labels=None, valid=None)
    with pytest.raises(ValueError, match="no labels"):
        evaluate(data, seed=0)
    write_predictions(tmp_path / "p.csv", data)
    with (tmp_path / "p.csv").open(newline="") as file:
        header = next(csv.reader(file))
    assert header == ["id", "patient", *(f"{m}:{c}" for m in ("zero_shot", "adapted") for c in CLASSES)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("multilabel", [True, False])
def test_predictions_file_holds_all_that_metrics_need(tmp_path, multilabel, dtype):
    data = make(multilabel, dtype=dtype)
    path = tmp_path / "predictions.csv"
    write_predictions(path, data)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == data.ids
    assert [row["patient"] for row in rows] == data.patients
    for model, scores in (("zero_shot", data.zero_shot), ("adapted", data.adapted)):
        back = np.array([[float(row[f"{model}:{name}"]) for name in CLASSES] for row in rows])
        assert (back == scores).all()
    result = evaluate(data, seed=0, resamples=5)
    for name in CLASSES:
        if multilabel:
            known = [row for row in rows if row[f"label:{name}"]]
            truth = [row[f"label:{name}"] == "1" for row in known]
        else:
            known, truth = rows, [row["label"] == name for row in rows]
        again = roc_auc_score(truth, [float(row[f"adapted:{name}"]) for row in known])
        assert result.per_class[name].adapted["auroc"].value == pytest.approx(again, abs=1e-6)
        assert result.per_class[name].positives == sum(truth)


def printed(evaluation, width=80, **console):
    stream = io.StringIO()
    print_table(evaluation, Console(file=stream, width=width, **console))
    return stream.getvalue()


def test_table_fits_and_shows_everything(evaluation):
    text = printed(evaluation)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert "…" not in text
    for model in (evaluation.zero_shot, evaluation.adapted):
        for value in model.values():
            assert f"{value.value:.3f} ({value.low:.3f}, {value.high:.3f})" in text
    change = evaluation.difference["auroc_macro"]
    assert f"{change.value:+.3f} ({change.low:+.3f}, {change.high:+.3f})" in text
    assert "[left]" in text  # not taken for markup
    assert "60 images" in text
    assert all(note.split()[0] in text for note in evaluation.notes)


def test_table_has_a_mark_for_what_does_not_exist():
    data = make()
    labels = data.labels.copy()
    labels[:, 0] = 1
    text = printed(evaluate(replace(data, labels=labels, adapted=None), seed=0, resamples=20))
    (line,) = [line for line in text.splitlines() if line.startswith(CLASSES[0])]
    assert line.split() == ["Cardiomegaly", str(int(data.valid[:, 0].sum())), "0", "-"]
    assert "adapted" not in text


def test_colour_only_on_a_terminal(evaluation):
    assert "\x1b[" in printed(evaluation, force_terminal=True, color_system="standard")
