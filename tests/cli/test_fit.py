import csv
import json
import sys
from pathlib import Path

import pytest
import torch

from domainvl.cli import main

ALLOW = ["--allow-import", "toy_cli"]


def weights(run):
    return torch.load(Path(run) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_fit_leaves_a_complete_run(toy, capsys):
    assert main(["fit", "toy.yaml", *ALLOW]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "run folder: runs/toy/1"
    assert lines[0] == "training 10 of 20 parameters on cpu"
    assert [line.split("  ")[0] for line in lines[1:3]] == ["epoch 1/2", "epoch 2/2"]
    run = Path("runs/toy/1")
    assert sorted(p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()) == [
        "checkpoints/last.ckpt",
        "config.yaml",
        "log.csv",
        "metrics.json",
        "predictions.csv",
        "rejects.csv",
        "report.html",
        "run.json",
    ]
    facts = json.loads((run / "run.json").read_text())
    assert facts["training"].pop("seconds") > 0
    assert facts["training"] == {
        "parameters": 20,
        "trained": 10,
        "device": "cpu",
        "processes": 1,
        "precision": "32-true",
        "epochs": 2,
        "steps": 8,
    }
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["split"] == "test"
    assert metrics["seed"] == 3
    assert metrics["hashes"] == {"split": "s", "preset": "p", "backbone": "b"}
    assert set(metrics["adapted"]["auroc_macro"]) == {"value", "low", "high"}
    with (run / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert all(float(row["train/loss"]) > 0 and row["val/accuracy"] for row in rows)
    assert all(name.startswith("layer") for name in weights(run))


def test_the_config_of_a_run_can_be_fitted_again(toy, capsys):
    assert main(["fit", "toy.yaml", *ALLOW, "--model.part.width", "7", "--trainer.max_epochs=1"]) == 0
    assert main(["fit", "runs/toy/1/config.yaml", *ALLOW]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "run folder: runs/toy/2"
    first, second = (Path(f"runs/toy/{number}/config.yaml").read_text() for number in (1, 2))
    assert first == second
    assert "width: 7" in first
    assert same(weights("runs/toy/1"), weights("runs/toy/2"))


def test_another_seed_gives_other_weights(toy):
    for seed in (1, 2):
        words = ["fit", "toy.yaml", *ALLOW, "--seed_everything", f"{seed}", "--trainer.max_epochs", "1"]
        assert main([*words, "--run-dir", f"{seed}"]) == 0
    assert not same(weights("1"), weights("2"))


def test_print_config_is_a_recipe(toy, capsys):
    (toy / "over.yaml").write_text("base: toy.yaml\nmodel: {init_args: {part: null}}\ntrainer: {max_epochs: 9}\n")
    words = ["fit", "toy.yaml", "over.yaml", *ALLOW, "--data.shots", "4", "--print_config"]
    assert main(words) == 0
    first = capsys.readouterr().out
    (toy / "again.yaml").write_text(first)
    assert main(["fit", "again.yaml", *ALLOW, "--print_config"]) == 0
    assert capsys.readouterr().out == first
    assert "max_epochs: 9" in first
    assert "part: null" in first
    assert "shots: 4" in first
    assert not (toy / "runs").exists()


def test_a_class_is_exchanged_on_the_command_line_without_old_settings(toy, capsys):
    assert main(["fit", "toy.yaml", *ALLOW, "--model.part", "Large", "--print_config"]) == 0
    assert "class_path: toy_cli.Large\n      init_args:\n        width: 8\n" in capsys.readouterr().out


def test_help_of_a_class(toy, capsys):
    assert main(["fit", *ALLOW, "--help", "Large"]) == 0
    assert "--layers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ([*ALLOW, "--data", "decimal.Decimal"], 2, "data: the recipe names decimal.Decimal, outside of the packages"),
        ([*ALLOW, "--data.root", "no-such-folder"], 2, "data.root: the folder no-such-folder does not exist"),
        ([*ALLOW, "--trainer.max_epochs", "null"], 2, "trainer.max_epochs is missing"),
        ([*ALLOW, "--run-dir", "toy.yaml/x"], 1, "cannot be written"),
        ([*ALLOW, "--model.slo", "1"], 2, "model: ToyTask has no setting 'slo'"),
        (["--resume", "nowhere"], 2, "--resume nowhere: there is no config.yaml"),
    ],
)
def test_what_cannot_run_stops_early_and_leaves_nothing(words, status, says, toy, capsys):
    recipe = [] if "--resume" in words else ["toy.yaml"]
    assert main(["fit", *recipe, *words]) == status
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) <= 3
    assert not list(toy.glob("runs/*/*"))


def test_a_refusal_of_our_own_code_is_short_and_leaves_no_folder(toy, capsys, monkeypatch):
    import toy_cli

    # As if a class of ours had raised.
    monkeypatch.setitem(toy_cli.__dict__, "__name__", "domainvl.toys")
    assert main(["fit", "toy.yaml", *ALLOW, "--model.fail", "build"]) == 1
    assert capsys.readouterr().err.startswith("error: ToyTask: fail must not be 'build'\n")
    assert not list(toy.glob("runs/*/*"))


def test_a_finished_run_is_not_touched(toy, capsys):
    assert main(["fit", "toy.yaml", *ALLOW, "--trainer.max_epochs", "1"]) == 0
    before = {place: place.stat().st_mtime_ns for place in Path("runs/toy/1").rglob("*")}
    assert main(["fit", "--resume", "runs/toy/1"]) == 0
    assert "this run is finished" in capsys.readouterr().out
    assert {place: place.stat().st_mtime_ns for place in Path("runs/toy/1").rglob("*")} == before


def test_resume_changes_nothing_but_the_trainer(toy, capsys):
    Path("r").mkdir()
    Path("r/config.yaml").write_text(Path("toy.yaml").read_text())
    for words in (["--model.slow", "1"], ["toy.yaml"], ["--run-dir", "x"], ["--seed_everything", "1"]):
        assert main(["fit", "--resume", "r", *words, *ALLOW]) == 2
    assert "--resume: model.slow cannot be changed half-way" in capsys.readouterr().err
    assert main(["fit", "--resume", "r", "--trainer.max_epochs", "1", *ALLOW]) == 0
    assert "max_epochs: 1\n" in Path("r/config.yaml").read_text()


@pytest.mark.parametrize("verb", ["test", "validate"])
def test_measuring_writes_numbers(verb, toy, capsys):
    assert main([verb, "toy.yaml", *ALLOW, "--run-dir", "out"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "run folder: out"
    assert json.loads(Path("out/metrics.json").read_text())["split"] == verb
    assert not Path("out/checkpoints").exists()


def test_predict_writes_predictions_without_numbers(toy):
    assert main(["predict", "toy.yaml", *ALLOW, "--run-dir", "out"]) == 0
    assert len(Path("out/predictions.csv").read_text().splitlines()) == 33
    assert not Path("out/metrics.json").exists()


def test_images_need_a_data_module_that_takes_them(toy, capsys):
    assert main(["predict", "toy.yaml", *ALLOW, "--images", "."]) == 2
    assert "--images: the data module ToyData has no setting 'predict_folder'" in capsys.readouterr().err
    assert not list(toy.glob("runs/*/*"))


def test_an_adapter_needs_a_task_that_takes_one(toy, capsys):
    assert main(["test", "toy.yaml", *ALLOW, "--adapter", "x"]) == 2
    assert "ToyTask is no domainvl task" in capsys.readouterr().err


def test_nobody_advertises(toy, capsys):
    assert main(["fit", "toy.yaml", *ALLOW, "--trainer.max_epochs", "1"]) == 0
    error = capsys.readouterr().err
    assert not error, error
    assert "toy_cli" in sys.modules
