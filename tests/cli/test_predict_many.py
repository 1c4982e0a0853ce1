"""`predict RUN-or-ADAPTER SOURCE`: one row per image, whatever happens in between."""

import csv
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from saved_toys import CLASSES, pictures, saved

import domainvl
from domainvl.cli import main
from domainvl.data.bulk.journal import Journal
from domainvl.model import Model

COUNT, BAD = 300, (7, 130)
# Dies as kill -9 does, with half a line written and readers at work.
DEADLY = """
import os, signal, sys
from domainvl.cli import main
from domainvl.data.bulk.journal import Journal

whole = Journal.append

def append(journal, batch):
    whole(journal, batch)
    if journal.done == 128:
        journal._values.write(b"half a row"), journal._values.flush()
        journal._lines.write(b'[0, "b/2'), journal._lines.flush()
        os.kill(os.getpid(), signal.SIGKILL)

Journal.append = append
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Adapters `one` and `many`, 300 pictures of which two are broken, and the table of an undisturbed pass."""
    folder = tmp_path_factory.mktemp("work")
    saved(folder / "many")
    saved(folder / "one", multilabel=False)
    pictures(folder / "images", COUNT, BAD)
    (folder / "few").mkdir()
    for name in pictures(folder / "few", 9, (3,)):
        with (folder / "few.csv").open("a") as file:
            file.write(f"{'' if file.tell() else 'patient,path' + chr(10)}p,few/{name}\n")
    assert ran(folder, "many", "images", "whole.csv") == 0
    return folder


def ran(folder, adapter, source, output, *more):
    words = [str(folder / adapter), str(folder / source), "--output", str(folder / output), "--workers", "0"]
    return main(["predict", *words, *more])


def rows(path):
    with path.open() as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("adapter", ["one", "many"])
@pytest.mark.parametrize("source", ["few", "few.csv"])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_row_for_every_image_with_what_the_model_says(work, adapter, source, ending, capsys):
    output = work / f"{adapter}-{source.replace('.', '-')}-{ending}.{ending}"
    assert ran(work, adapter, source, output.name) == 0
    if ending == "csv":
        header, *found = rows(output)
    else:
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(output)
        header, found = table.column_names, list(zip(*(column.to_pylist() for column in table), strict=True))
    assert header == ["path", *CLASSES]
    names = [row[0] for row in found]
    assert len(set(names)) == len(names) == 8
    values = np.array([row[1:] for row in found], np.float64)
    model = domainvl.load(work / adapter, device="cpu")
    root = work if source.endswith(".csv") else work / source
    np.testing.assert_allclose(values, model.predict([root / name for name in names]), atol=1e-6)
    assert np.allclose(values.sum(axis=1), 1) != (adapter == "many")
    rejected = rows(output.with_suffix(".rejects.csv"))
    assert [row[:2] for row in rejected] == [["row", "path"], ["8" if root == work else "", rejected[1][1]]]
    assert rejected[1][1].endswith("b/003.jpg")
    assert "damaged" in rejected[1][2]
    assert "1 left out" in capsys.readouterr().out
    # A second time there is nothing to do.
    assert ran(work, adapter, source, output.name) == 0
    assert "is there already" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_pass_goes_on_without_a_repeated_or_missing_row(work, environment, capsys):
    words = ["predict", str(work / "many"), str(work / "images"), "--output", str(work / "cut.csv"), "--workers", "1"]
    done = subprocess.run([sys.executable, "-c", DEADLY, *words], env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (work / "cut.csv").exists()
    assert (work / "cut.partial" / "rows.jsonl").read_bytes().count(b"\n") == 128
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "append", interrupting(Journal.append, 192))
        assert ran(work, "many", "images", "cut.csv") == 130
    said = capsys.readouterr().err
    assert "going on behind 128 of 300 images" in said
    assert "stopped by SIGINT; 192 of 300 images are kept, the same command goes on" in said
    assert "Traceback" not in said
    assert ran(work, "many", "images", "cut.csv") == 0
    assert "going on behind 192 of 300 images" in capsys.readouterr().err
    assert not (work / "cut.partial").exists()
    for ending in ("csv", "rejects.csv"):
        assert (work / f"cut.{ending}").read_bytes() == (work / f"whole.{ending}").read_bytes()
    names = [row[0] for row in rows(work / "cut.csv")[1:]]
    assert len(names) == len(set(names)) == COUNT - len(BAD)


def interrupting(append, at):
    def and_stop(journal, batch):
        append(journal, batch)
        if journal.done == at:
            signal.raise_signal(signal.SIGINT)

    return and_stop


@pytest.mark.parametrize(
    ("adapter", "source", "message"),
    [
        ("one", "images", "half.csv was begun with another adapter"),
        ("many", "few", "half.csv was begun with another source"),
    ],
)
def test_a_pass_goes_on_only_with_what_it_began_with(work, adapter, source, message, capsys):
    if not (work / "half.partial").exists():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Journal, "append", interrupting(Journal.append, 64))
            assert ran(work, "many", "images", "half.csv") == 130
    capsys.readouterr()
    assert ran(work, adapter, source, "half.csv") == 1
    said = capsys.readouterr().err
    assert message in said
    assert "give another --output, or delete" in said


def test_a_source_that_changes_meanwhile_is_noticed(work, capsys):
    pictures(work / "grows", 140)

    def append(journal, batch, whole=Journal.append):
        whole(journal, batch)
        (work / "grows" / "b" / "new.jpg").touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "append", append)
        assert ran(work, "many", "grows", "grows.csv") == 1
    assert "the source held 140 images at first and 141 later" in capsys.readouterr().err


def test_a_folder_of_nothing_readable_is_an_error_with_a_list(work, capsys):
    for name in pictures(work / "broken", 2):
        (work / "broken" / name).write_bytes(b"")
    assert ran(work, "many", "broken", "broken.csv") == 1
    assert "none of 2 images can be used; the first: the file is empty" in capsys.readouterr().err
    assert len(rows(work / "broken.rejects.csv")) == 3


def test_an_answer_that_is_not_finite_is_left_out(work):
    def logits(model, pixels, whole=Model.logits):
        found = whole(model, pixels)
        found[2] = float("nan")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Model, "logits", logits)
        assert ran(work, "many", "few", "nan.csv") == 0
    # The third of those that can be read, and the broken one.
    reasons = {row[1]: row[2] for row in rows(work / "nan.rejects.csv")[1:]}
    assert reasons.keys() == {"a/004.jpg", "b/003.jpg"}
    assert reasons["a/004.jpg"] == "the model's answer is not finite"
    assert len(rows(work / "nan.csv")) == 8


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["many", "few"], 2, "predict needs --output FILE that ends in .csv or .parquet"),
        (["many", "few", "--output", "x.txt"], 2, ".csv or .parquet, got x.txt"),
        (["many"], 2, "predict takes RUN or ADAPTER, and SOURCE, got"),
        (["many", "fow", "--output", "x.csv"], 2, "fow does not exist\ndid you mean: "),
        (["many", "few/a/000.jpg", "--output", "x.csv"], 2, "is neither a folder nor a table"),
        (
            ["many", "few.csv", "--output", "x.csv", "--image-column", "pth"],
            1,
            "there is no column 'pth'; did you mean",
        ),
        (["many", "few", "--output", "x.csv", "--workers", "two"], 2, "--workers must be a whole number"),
        (["many", "few", "--output", "x.csv", "--images", "y"], 2, "--images goes with a recipe"),
        (["many", "few", "--output", "x.csv", "--data.shots", "4"], 2, "--data.shots is a key of a recipe"),
        (["r.yaml", "--output", "x.csv"], 2, "--output goes with a RUN or ADAPTER with a SOURCE"),
        (["few", "few", "--output", "x.csv"], 1, "no adapter: "),
    ],
)
def test_a_wrong_command_line_is_refused(work, words, status, says, capsys, monkeypatch):
    monkeypatch.chdir(work)
    assert main(["predict", *words]) == status
    assert says in capsys.readouterr().err
    assert not (work / "x.csv").exists()


def test_a_run_reads_images_as_its_own_data_module_does(work, capsys):
    run = work / "run"
    shutil.copytree(work / "many", run / "adapter")
    (run / "config.yaml").write_text(
        "model:\n  class_path: domainvl.tasks.Classification\n  init_args:\n"
        "    backbone: {class_path: HuggingFace, init_args: {name: builtin:tiny}}\n"
        "data: {class_path: Satellite, init_args: {root: /nowhere}}\n"
    )
    pictures(work / "deep", 1)
    Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32)).save(work / "deep" / "b.png")
    assert ran(work, "many", "deep", "plain.csv") == 0
    assert ran(work, "run", "deep", "own.csv") == 0
    assert [row[0] for row in rows(work / "plain.csv")[1:]] == ["a/000.jpg", "b.png"]
    assert [row[0] for row in rows(work / "own.csv")[1:]] == ["a/000.jpg"]
    assert "it has more than 8 bits" in rows(work / "own.rejects.csv")[1][2]
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("/nowhere", "/nowhere, sensor: sentinel2-l2a"))
    assert ran(work, "run", "deep", "scenes.csv") == 2
    assert "adapter was not trained on files that are whole pictures" in capsys.readouterr().err


def test_parquet_without_its_library_says_what_to_install(work, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert ran(work, "many", "few", "none.parquet") == 1
    assert "pip install 'domainvl[parquet]'" in capsys.readouterr().err
