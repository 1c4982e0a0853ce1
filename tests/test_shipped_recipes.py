"""Every shipped recipe runs as shipped, and its numbers are worth having."""

import csv
import json
from pathlib import Path

import pytest
from safetensors import safe_open
from slide_truth import check_slides

import domainvl
from domainvl.cli import main
from domainvl.recipes import load
from domainvl.samples import write

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))

# Least gain in macro AUROC, or in mean recall where there are no classes; what is not named has to run, no more.
GAINS = {
    "ct": 0.08,
    "cxr": 0.10,
    "cxr-align": 0.10,
    "cxr-align-llm": 0.15,
    "cxr-coop": 0.03,
    "cxr-lora": 0.10,
    "cxr-probe": 0.10,
    "histo": 0.03,
    "satellite": 0.02,
    "slides": 0.02,
}

# What else a run has to have found.
CHECKS = {"slides": check_slides}

# What a recipe that takes minutes is run with: enough to learn something, or two epochs to show that it runs.
SHORT = ["--trainer.max_epochs", "2"]
FEW = [*SHORT, "--data.shots", "2"]
TEXTS = ["--data.layout", "ImageTable", "--data.layout.text_columns", "[lungs, heart, aorta, liver, spleen, kidneys]"]
LESS = {
    "ct-align": [*SHORT, *TEXTS],
    "ct-depth": FEW,
    "ct-inflated": FEW,
    "ct-lora": FEW,
    "ct-probe": FEW,
    "ct-side-tuning": FEW,
    "ct-slice-attention": FEW,
    "ct-st-adapter": FEW,
    "cxr-align-llm": SHORT,
    "cxr-cocoop": SHORT,
    "cxr-crane": SHORT,
    "cxr-dora": SHORT,
    "cxr-lora-mmrl": SHORT,
    "histo-quilt": SHORT,
    "satellite": ["--trainer.max_epochs", "20"],
    "satellite-random": SHORT,
    "satellite-retrieval": SHORT,
    "slides-clam": SHORT,
    "slides-vila-mil": SHORT,
}


@pytest.fixture(scope="session")
def few_scans(tmp_path_factory):
    return write("ct", tmp_path_factory.mktemp("ct") / "scans", patients=60)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_short(path):
    assert len(path.read_text().splitlines()) < 80
    assert load([path])["model"]["class_path"]


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_runs_as_shipped(path, tmp_path, capsys, request):
    run, less, data = tmp_path / "run", LESS.get(path.stem, []), []
    if path.stem.startswith("ct-"):
        data = ["--data.root", str(request.getfixturevalue("few_scans"))]
    assert main(["fit", str(path), "--run-dir", str(run), *data, *less]) == 0
    printed = capsys.readouterr().out.rstrip()
    assert printed.splitlines()[-1] == f"run folder: {run}"
    assert "zero-shot" in printed

    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["split"] == "test"
    assert set(metrics["hashes"]) >= {"split", "preset", "backbone"}
    assert metrics["seed"] == 1
    measure = "auroc_macro" if "auroc_macro" in metrics["zero_shot"] else "mean_recall"
    for model in ("zero_shot", "adapted"):
        value = metrics[model][measure]
        assert value["low"] < value["value"] < value["high"]
    gain = metrics["adapted"][measure]["value"] - metrics["zero_shot"][measure]["value"]
    assert gain >= GAINS.get(path.stem, -1)
    if path.stem in CHECKS:
        CHECKS[path.stem](run)

    found = metrics.get("leakage") or json.loads((run / "run.json").read_text())["leakage"]
    for pair in (value for name, value in found.items() if name != "crops"):
        for kind in ("patients", "identical_images", "similar_images"):
            assert pair[kind] is None or pair[kind]["count"] == 0, "a false alarm: splits of samples share nothing"

    with (run / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == metrics["n"]["images"]
    assert (run / "rejects.csv").exists()
    names = {entry.name for entry in (run / "adapter").iterdir()}
    assert names >= {"domainvl.json", "domainvl.safetensors", "README.md", "recipe.yaml"}
    with safe_open(run / "adapter" / "domainvl.safetensors", framework="pt") as file:
        assert list(file.keys())
    card = json.loads((run / "adapter" / "domainvl.json").read_text())
    assert domainvl.load(run, device="cpu").classes == card["classes"]

    again = tmp_path / "again"
    assert main(["test", str(path), "--adapter", str(run / "adapter"), "--run-dir", str(again), *data]) == 0
    assert (again / "predictions.csv").read_bytes() == (run / "predictions.csv").read_bytes()
