"""The grid: which recipe a word stands for, what a cell computes, and that nothing finished is ever lost."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import benchmark_toys
import pytest
from lightning.pytorch import Trainer

from domainvl import recipes
from domainvl.benchmark import parts as cuts
from domainvl.benchmark import table
from domainvl.benchmark.bench import Bench
from domainvl.benchmark.cells import ZERO_SHOT, Shelf
from domainvl.benchmark.grid import Dataset, Grid, adapter_of, dataset
from domainvl.benchmark.plan import plan
from domainvl.cli import main
from domainvl.console import parser as parsing
from domainvl.console.quiet import quieten
from domainvl.data.decoder import remember
from domainvl.data.labels import Label, LabelPolicy
from domainvl.data.manifest import Manifest, Record
from domainvl.errors import CommandError

YES, NO, UNSURE = Label.POSITIVE, Label.NEGATIVE, Label.UNCERTAIN
RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    benchmark_toys.write(folder)
    return folder


@pytest.fixture
def work(data, monkeypatch):
    monkeypatch.chdir(data)
    for name in ("LOCAL_RANK", "RANK"):
        monkeypatch.delenv(name, raising=False)
    return data


@pytest.fixture
def cells(work):
    """Makes the cells of a grid."""
    quieten()
    parsing.offer_classes()

    def make(protocol, recipe, words=(), targets=(), shots=(2,), seeds=(1,), **overrides):
        found = [Dataset(Path(one).stem, recipes.load([Path(one)])) for one in targets]
        return plan(Grid(protocol, [dataset(Path(recipe), words)], found, shots, seeds), overrides)

    yield make
    remember(None)


# Words


@pytest.mark.parametrize(
    ("word", "label", "adapter"),
    [
        ("MMRL", "MMRL", "MMRL"),  # the recipe's own
        ("CoOp", "CoOp", "CoOp"),
        ("LinearProbe", "LinearProbe", "LinearProbe"),  # cxr-probe.yaml, found by what it says
        ("mmrlpp", "mmrlpp", "MMRLpp"),  # by the name of the file
        (str(RECIPES / "cxr-lora.yaml"), "lora", "LoRA"),
        (str(RECIPES / "cxr.yaml"), "MMRL", "MMRL"),
    ],
)
def test_a_word_stands_for_a_recipe(word, label, adapter):
    found = dataset(RECIPES / "cxr.yaml", [word]).variants
    assert list(found) == [label]
    assert adapter_of(found[label]) == adapter
    losses = found[label]["model"]["init_args"]["objectives"]
    assert (losses["stay_text"] is None) == (adapter not in ("MMRL", "MMRLpp"))


@pytest.mark.parametrize("recipe", ["satellite.yaml", "satellite-random.yaml"])
def test_losses_that_read_what_every_adapter_makes_train_any(recipe):
    """Random and spatial splits beside each other, with adapters that no recipe is written for."""
    base = recipes.load([RECIPES / recipe])
    found = dataset(RECIPES / recipe, ["LoRA", "CoOp"]).variants
    assert found["LoRA"] == base
    assert found["CoOp"]["model"]["init_args"]["adapter"] == {"class_path": "CoOp"}
    assert {**found["CoOp"], "model": None} == {**base, "model": None}
    assert found["CoOp"]["model"]["init_args"]["objectives"] == base["model"]["init_args"]["objectives"]


def test_settings_of_the_benchmarked_recipe_outlive_the_adapter(tmp_path):
    own = f"base: {RECIPES / 'cxr.yaml'}\ntrainer: {{max_epochs: 3}}\n"
    own += "data: {init_args: {loading: {batch_size: 5}}}\n"
    (tmp_path / "mine.yaml").write_text(own)
    found = dataset(tmp_path / "mine.yaml", ["CoOp"]).variants["CoOp"]
    assert (found["trainer"]["max_epochs"], found["data"]["init_args"]["loading"]["batch_size"]) == (3, 5)
    assert adapter_of(found) == "CoOp"


@pytest.mark.parametrize(
    ("words", "says", "also"),
    [
        (["cxr.yaml", "--adapters", "Coup"], "--adapters Coup: no recipe cxr-*.yaml uses it", "did you mean: CoOp"),
        (["cxr.yaml", "--adapters", "VPTX"], "--adapters VPTX: no recipe", "class_head, representation_head"),
        (["cxr.yaml", "--adapters", "CoOp", "CoOp"], "--adapters: CoOp is given twice", ""),
        (["cxr.yaml", "--adapters", "no.yaml"], "recipe no.yaml does not exist", ""),
        (["cxr.yaml", "--shots", "1", "one"], "--shots must be a whole number from 1 on, got 'one'", ""),
        (["--shots", "1", "cxr.yaml"], "--shots must be a whole number from 1 on, got 'cxr.yaml'; recipes come b", ""),
        (["cxr.yaml", "--shots", "2", "2"], "--shots: 2 2 names a number twice", ""),
        (["cxr.yaml", "--seeds", "0"], "--seeds must be a whole number from 1 on, got '0'", ""),
        (["cxr.yaml", "--protocol", "base-to-new"], "--protocol: 'base-to-new' is not one of", "base-to-novel"),
        (["cxr.yaml", "--data.shots", "4"], "--data.shots is what the grid goes through; give --shots", ""),
        (["cxr.yaml", "--model.adapter", "CoOp"], "--model.adapter is what the grid goes through; give --ad", ""),
        (["cxr.yaml", "--protocol", "cross-dataset"], "cross-dataset trains on the first recipe", ""),
        (["cxr.yaml", "cxr.yaml"], "recipes are told apart by their names", ""),
        ([], "benchmark needs a recipe", ""),
    ],
)
def test_a_wrong_command_line_says_so_at_once(words, says, also, capsys, monkeypatch):
    monkeypatch.chdir(RECIPES)
    assert main(["benchmark", *words]) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"error: {says}"), text
    assert also in text


# Cells


def test_the_key_of_a_cell_is_what_it_computes(cells):
    grid = {"words": ["CoOp", "LinearProbe"], "shots": (1, 2), "seeds": (1, 2)}
    found = cells("few-shot", "single.yaml", **grid)
    assert len(found) == 9
    assert found[0].adapter == ZERO_SHOT
    assert [cell.shots for cell in found[1:]] == [2] * 4 + [1] * 4
    keys = [cell.key for cell in found]
    assert len(set(keys)) == 9
    assert [cell.key for cell in cells("few-shot", "single.yaml", **grid)] == keys
    # Longer training is another result for all but zero-shot; another protocol is one for all.
    longer = [cell.key for cell in cells("few-shot", "single.yaml", **grid, **{"trainer.max_epochs": "2"})]
    assert [a == b for a, b in zip(longer, keys, strict=True)] == [True] + [False] * 8
    assert not set(keys) & {cell.key for cell in cells("base-to-novel", "single.yaml", **grid)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"trainer.max_epoch": "1"}, "single: trainer: Trainer has no setting 'max_epoch'"),
        ({"trainer.max_epochs": "null"}, "CoOp: trainer.max_epochs is missing"),
        ({"trainer.devices": "2"}, "single: trainer.devices is '2'"),
        ({"data.shotz": "2"}, "single: data: ChestXrays has no setting 'shotz'"),
    ],
)
def test_all_cells_are_checked_before_the_first_runs(change, says, cells):
    with pytest.raises(CommandError) as found:
        cells("few-shot", "single.yaml", **change)
    assert found.value.what.startswith(says), found.value.what


def test_a_cell_is_the_run_that_fit_makes(cells, work):
    bench = Bench()
    for cell in cells("few-shot", "single.yaml", ["CoOp", "MMRL"], seeds=(2,)):
        content = bench.run(cell)
        if cell.adapter == ZERO_SHOT:
            assert content["parts"]["all"]["adapted"] is None
            continue
        recipe = "single.yaml" if cell.adapter == "CoOp" else "single-mmrl.yaml"
        run = work / f"fit-{cell.adapter}"
        assert main(["fit", recipe, "--seed_everything", "2", "--data.shots", "2", "--run-dir", str(run)]) == 0
        metrics = json.loads((run / "metrics.json").read_text())
        again = bench.run(cell)  # with a kept backbone and kept pixels
        for found in (content, again):
            assert found["hashes"] == metrics["hashes"]
            assert found["parts"]["all"]["adapted"] == metrics["adapted"]
            assert found["parts"]["all"]["per_class"] == metrics["per_class"]


@pytest.mark.parametrize("protocol", ["few-shot", "base-to-novel"])
def test_a_training_has_no_test_image_to_look_at(protocol, cells, monkeypatch):
    fit, seen = Trainer.fit, []

    def watched(self, model, datamodule, **settings):
        fit(self, model, datamodule=datamodule, **settings)
        seen.extend(record.split for record in datamodule.manifest.records)
        with pytest.raises(ValueError, match="the test split is empty"):
            datamodule.setup("test")

    monkeypatch.setattr(Trainer, "fit", watched)
    content = Bench().run(cells(protocol, "single.yaml")[-1])
    assert set(seen) == {"train", "validate"}
    assert content["trained"]["selection"] == "none"


@pytest.mark.parametrize("recipe", ["single.yaml", "multi.yaml"])
def test_base_to_novel(recipe, cells):
    bench = Bench()
    few, novel = (cells(protocol, recipe, ["MMRL"])[-1] for protocol in ("few-shot", "base-to-novel"))
    whole, content = bench.run(few), bench.run(novel)
    base, rest = content["parts"]["base"], content["parts"]["novel"]
    names = sorted(benchmark_toys.NAMES[: 5 if recipe == "single.yaml" else 4])
    assert (base["classes"], rest["classes"]) == (names[: (len(names) + 1) // 2], names[(len(names) + 1) // 2 :])
    assert (base["novel"], rest["novel"]) == (False, True)
    assert content["trained"]["classes"] == base["classes"]
    # The same draw, then the cut.
    assert content["hashes"] == whole["hashes"]
    if recipe == "single.yaml":
        assert (whole["trained"]["images"], content["trained"]["images"]) == (10, 6)
        assert base["n"]["images"] + rest["n"]["images"] == whole["parts"]["all"]["n"]["images"]
    else:
        assert base["n"] == rest["n"] == whole["parts"]["all"]["n"]
    found = table.rows([{**content, "cell": novel.key}])
    harmonic = {row["metric"]: row["value"] for row in found if row["part"] == "hm"}
    metric = table.headline(content["multilabel"])
    pair = [part["adapted"][metric]["value"] for part in (base, rest)]
    assert harmonic[metric] == pytest.approx(2 * pair[0] * pair[1] / sum(pair))


def test_an_adapter_that_knows_its_classes_alone_has_no_novel_number(cells):
    content = Bench().run(cells("base-to-novel", "single.yaml", ["LinearProbe"])[-1])
    assert "zero_shot" not in content["parts"]["novel"]
    assert content["parts"]["novel"]["note"].startswith("LinearProbe knows only")
    assert {row["part"] for row in table.rows([{**content, "cell": "x"}])} == {"base"}


def test_other_data_sets_are_tested_on(cells, work):
    text = (work / "single.yaml").read_text().replace("split: {", "split: {seed: 5, ")
    (work / "other.yaml").write_text(text + "    classes: [mass, nodule]\n")
    bench = Bench()
    zero, trained = (bench.run(c) for c in cells("cross-dataset", "single.yaml", ["MMRL"], ["other.yaml"]))
    assert list(trained["parts"]) == ["source", "other"]
    assert trained["parts"]["other"]["classes"] == ["mass", "nodule"]
    assert (trained["parts"]["source"]["novel"], trained["parts"]["other"]["novel"]) == (False, True)
    values = [{k: v["value"] for k, v in cell["parts"]["other"]["zero_shot"].items()} for cell in (zero, trained)]
    assert values[0] == values[1]
    (work / "shifted.yaml").write_text(text)
    shifted = bench.run(cells("domain-generalisation", "single.yaml", ["LinearProbe"], ["shifted.yaml"])[-1])
    assert shifted["parts"]["shifted"]["novel"] is False
    assert shifted["parts"]["shifted"]["split"] != shifted["parts"]["source"]["split"]


def test_of_findings_the_drawn_images_without_a_base_finding_leave():
    def record(name, *labels, split="train"):
        return Record(name, name, name, labels=labels, split=split)

    records = (
        record("base", YES, NO),
        record("both", YES, YES),
        record("novel", NO, YES),
        record("none", NO, NO),
        record("unsure", NO, UNSURE),
        record("held", YES, NO, split="test"),
        record("choice", NO, YES, split="validate"),
    )
    whole = Manifest("toy", Path(), records, ("a", "b"), carve=0.5)
    cut = cuts.training_part(whole, [3, 2, 1, 0, 4], [6], ["a"], LabelPolicy())
    assert [one.id for one in cut.records] == ["none", "both", "base", "unsure"]
    assert cut.carve == 0
    kept = cuts.training_part(whole, [3, 2], [6], None, LabelPolicy())
    assert [one.id for one in kept.records] == ["none", "novel", "choice"]
    assert [one.id for one in cuts.testing_part(whole).records] == ["held"]
    assert [part.name for part in cuts.parts("base-to-novel", ["b", "a"], ())] == ["base", "novel"]


def test_pixels_are_read_once(cells, monkeypatch):
    import data_modules.cxr as cxr

    reads = []
    read = cxr.read_image
    monkeypatch.setattr(cxr, "read_image", lambda path: reads.append(path) or read(path))
    bench = Bench()
    first, *others = cells("few-shot", "single.yaml", ["CoOp"], shots=(1, 2), seeds=(1, 2))
    for cell in (first, *others):
        bench.run(cell)
    # A new lambda per test, the same one for all cells.
    assert len(reads) == len(set(reads))


# Files


def test_a_damaged_cell_is_not_finished(tmp_path):
    shelf = Shelf(tmp_path)
    shelf.keep("k", {"value": 1})
    assert shelf.read("k") == {"cell": "k", "value": 1}
    assert [place.name for place in (tmp_path / "cells").iterdir()] == ["k.json"]
    shelf.result("k").write_text(shelf.result("k").read_text()[:-5])
    assert shelf.read("k") is None
    assert shelf.read("other") is None


def finished(folder):
    return {place.name: place.stat().st_mtime_ns for place in Path(folder, "cells").glob("*.json")}


@pytest.fixture
def command(environment):
    def start(*words):
        words = [sys.executable, "-m", "domainvl", "benchmark", *words]
        return subprocess.Popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    return start


@pytest.mark.slow
def test_killed_half_way_no_cell_is_lost_or_repeated(work, command):
    words = ["single.yaml", "--adapters", "CoOp", "LinearProbe", "--shots", "1", "2", "--seeds", "2", "--jobs", "2"]
    words += ["--run-dir", "killed"]
    process = command(*words)
    deadline = time.monotonic() + 240
    while len(finished("killed")) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    before = finished("killed")
    assert 4 <= len(before) < 9
    assert all(json.loads(Path("killed", "cells", name).read_text())["parts"] for name in before)
    # A process that is killed while it writes leaves a draft behind.
    Path("killed/cells/.half.json.1.tmp").write_text("{")
    again = command(*words)
    said, error = again.communicate(timeout=300)
    assert again.returncode == 0, error
    assert f"9 cells, {len(before)} of them finished already" in said
    assert said.count("eta") == 9 - len(before)
    after = finished("killed")
    assert len(after) == 9
    assert {name: after[name] for name in before} == before
    # What was killed in between is what nobody killed.
    with Path("killed/results.csv").open() as file:
        found = [row for row in csv.DictReader(file) if row["metric"] == "accuracy"]
    assert sorted((row["adapter"], row["shots"], row["seed"]) for row in found) == sorted(
        [(ZERO_SHOT, "", ""), *((a, k, s) for a in ("CoOp", "LinearProbe") for k in "12" for s in "12")]
    )
    assert len({row["split_hash"] for row in found}) == 1
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in found)
    assert Path("killed/curves.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in Path("killed/curves.svg").read_text()
    assert not list(Path("killed", "cells").glob(".*"))


@pytest.mark.slow
def test_a_cell_that_fails_or_dies_stops_no_other(work, command):
    words = ["single.yaml", "--adapters", "LinearProbe", "single-deadly.yaml", "--shots", "1", "64", "--seeds", "1"]
    words += ["--jobs", "1", "--run-dir", "failing", "--allow-import", "benchmark_toys"]
    process = command(*words)
    said, error = process.communicate(timeout=300)
    assert process.returncode == 1
    assert len(finished("failing")) == 2, said + error  # zero-shot and one shot of the probe
    assert "LinearProbe  64 shots  seed 1  FAILED: ValueError: single: shots is 64, but only" in said
    assert "deadly  1 shot  seed 1  FAILED: its process was killed by signal 9" in said
    assert error.count("failed: ") == 3
    assert "3 of 5 cells failed" in error
    texts = [place.read_text() for place in Path("failing", "failed").glob("*.txt")]
    assert sorted(text.startswith("Traceback") for text in texts) == [False, True, True]
    assert "accuracy" in said


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished(work, command):
    words = ["single.yaml", "--adapters", "CoOp", "--shots", "1", "2", "--seeds", "3", "--jobs", "1"]
    process = command(*words, "--run-dir", "stopped", "--trainer.max_epochs", "20")
    while not finished("stopped"):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert "stopped by SIGINT" in error
    assert "resume: the same command again" in error
    assert "Traceback" not in error
