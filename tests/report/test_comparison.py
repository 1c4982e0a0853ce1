import json

import numpy as np
import pytest
from toy_runs import EVIL, PATIENT, predictions, run_folder

from domainvl.cli import main
from domainvl.errors import CommandError
from domainvl.evaluation import Interval, Predictions, evaluate, write_predictions
from domainvl.report.comparison import compare
from domainvl.report.comparison_page import verdict, write_comparison


@pytest.fixture
def runs(tmp_path):
    made = {
        "good": predictions(adapted=2.0),
        "same": predictions(adapted=2.0),
        "poor": predictions(adapted=0.0, seed=9),
    }
    return [run_folder(tmp_path / name, found, resamples=1000) for name, found in made.items()]


def test_values_and_differences_are_those_of_an_evaluation(runs):
    found = compare(runs)
    metrics = [json.loads((run / "metrics.json").read_text()) for run in runs]
    assert [row.name for row in found.rows] == ["zero-shot (good)", "good", "same", "poor"]
    for name in ("auroc_macro", "f1_macro", "calibration_error"):
        for row, own in zip(found.rows[1:], metrics, strict=True):
            assert row.values[name].as_dict() == pytest.approx(own["adapted"][name], abs=1e-6)
        # Paired on the draws that metrics.json was made with.
        assert found.rows[1].differences[name].as_dict() == pytest.approx(metrics[0]["difference"][name], abs=1e-6)
    assert found.rows[1].values[f"auroc:{EVIL}"].value == pytest.approx(
        metrics[0]["per_class"][EVIL]["adapted"]["auroc"]["value"]
    )


def test_the_same_run_differs_by_nothing_and_a_worse_one_is_worse(runs):
    found = compare(runs, reference=1)
    assert [row.name for row in found.rows] == ["good", "zero-shot (good)", "same", "poor"]
    same, poor = found.rows[2].differences["auroc_macro"], found.rows[3].differences["auroc_macro"]
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert verdict("auroc_macro", same) == "cannot be told apart"
    assert verdict("auroc_macro", poor) == "worse"


@pytest.mark.parametrize(
    ("name", "low", "high", "said"),
    [
        ("auroc_macro", 0.01, 0.1, "better"),
        ("auroc_macro", -0.1, -0.01, "worse"),
        ("auroc_macro", -0.1, 0.1, "cannot be told apart"),
        ("auroc_macro", None, None, ""),
        ("calibration_error", 0.01, 0.1, "worse"),
        ("calibration_error", -0.1, -0.01, "better"),
    ],
)
def test_verdicts_know_which_way_is_better(name, low, high, said):
    assert verdict(name, Interval(0.0, low, high)) == said


def test_rows_in_another_order_change_nothing(runs):
    before = compare(runs)
    path = runs[1] / "predictions.csv"
    head, *lines = path.read_text().splitlines()
    path.write_text("\n".join([head, *sorted(lines, reverse=True)]) + "\n")
    assert compare(runs) == before


def refused(tmp_path, change):
    first, second = run_folder(tmp_path / "a"), run_folder(tmp_path / "b")
    change(second)
    with pytest.raises(CommandError) as said:
        compare([first, second])
    return str(said.value)


def other_split(run):
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["hashes"]["split"] = "ffffff"
    (run / "metrics.json").write_text(json.dumps(metrics))


def other_images(run):
    lines = (run / "predictions.csv").read_text().splitlines()
    (run / "predictions.csv").write_text("\n".join(lines[:-1]) + "\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [(other_split, "split hash 3f2a9c and ffffff"), (other_images, "120 and 119 images")],
)
def test_what_is_not_alike_is_refused_by_name(tmp_path, change, said):
    text = refused(tmp_path, change)
    assert said in text
    assert str(tmp_path / "a") in text
    assert str(tmp_path / "b") in text
    assert PATIENT not in text


def test_retrieval_is_compared_by_ranks(tmp_path):
    """Ten of forty images find their report first; in the other run all do."""
    runs = []
    for name, rank in (("some", np.where(np.arange(40) < 10, 1, 7)), ("all", np.ones(40))):
        base = predictions(rows=40, classes=1)
        one = Predictions(base.ids, base.patients, ["A"], True, base.labels, base.valid, base.zero_shot, base.adapted)
        run = run_folder(tmp_path / name, one)
        write_predictions(run / "predictions.csv", one)
        lines = (run / "predictions.csv").read_text().splitlines()
        texts = [f"{lines[0]},zero_shot:i2t_rank,adapted:i2t_rank"]
        texts += [f"{line},9,{place:g}" for line, place in zip(lines[1:], rank, strict=True)]
        (run / "predictions.csv").write_text("\n".join(texts) + "\n")
        runs.append(run)
    found = compare(runs, reference=1)
    assert found.rows[0].values["i2t_r1"].value == 0.25
    assert found.rows[2].differences["i2t_r1"].value == 0.75
    assert found.rows[2].differences["i2t_r10"].value == 0
    assert found.rows[2].values["auroc_macro"].value == pytest.approx(
        evaluate(one, seed=0, resamples=2).adapted["auroc_macro"].value
    )


def test_the_command_prints_a_table_and_writes_a_page(runs, tmp_path, capsys):
    assert main(["compare", *map(str, runs), "--output", str(tmp_path / "c.html"), "--reference", "1"]) == 0
    said = capsys.readouterr().out
    assert "Mean AUROC" in said
    assert "paired, from good" in said
    text = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert PATIENT not in text
    assert "cannot be told apart" in text
    assert write_comparison(compare(runs), tmp_path / "d.html").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare", "one"], "two runs or more"),
        (["compare", "a", "b", "--reference", "3"], "runs 1 to 2"),
        (["compare", "a", "b", "--seed", "-1"], "whole number"),
        (["compare", "a", "b"], "no metrics.json"),
    ],
)
def test_wrong_words_of_compare_are_explained(words, said, capsys):
    assert main(words) == 2
    assert said in capsys.readouterr().err
