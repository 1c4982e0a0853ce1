"""`embed RUN-or-ADAPTER SOURCE`: features of images and texts, and what their rows are."""

import csv
import json

import numpy as np
import pytest
from saved_toys import pictures, saved
from test_predict_many import interrupting

import domainvl
from domainvl.cli import main
from domainvl.data.bulk.journal import Journal

TEXTS = [f"Finding {number} is seen in the left lung." for number in range(70)]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    saved(folder / "adapter")
    saved(folder / "other", seed=1)
    pictures(folder / "images", 70, (5,))
    (folder / "texts.txt").write_text("\n".join([TEXTS[0], "", *TEXTS[1:]]) + "\n")
    with (folder / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "report"], *enumerate(TEXTS)])
    return folder


@pytest.fixture(scope="module")
def model(work):
    return domainvl.load(work / "adapter", device="cpu")


def ran(work, source, output, *more, adapter="adapter"):
    words = [str(work / adapter), str(work / source), "--output", str(work / output), "--workers", "0"]
    return main(["embed", *words, *more])


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("half", [False, True])
def test_images_are_embedded_as_the_model_does(work, model, half):
    name = f"images-{half}"
    assert ran(work, "images", f"{name}.npy", *(["--half"] if half else [])) == 0
    found = np.load(work / f"{name}.npy", mmap_mode="r")
    lines = table(work / f"{name}.csv")
    assert found.dtype == (np.float16 if half else np.float32)
    assert [line["index"] for line in lines] == [str(index) for index in range(69)]
    expected = model.embed_image([work / "images" / line["path"] for line in lines])
    np.testing.assert_allclose(found, expected, atol=1e-3 if half else 1e-6)
    known = json.loads((work / f"{name}.json").read_text())
    assert known["backbone"]["weights"] == model.card.backbone.weights
    assert known["backbone"]["preset"] == model.preset.digest
    assert known["written"] == 69
    assert known["rejected"] == 1


@pytest.mark.parametrize(
    ("source", "more", "kept"),
    [("texts.txt", [], [1, *range(3, 72)]), ("texts.csv", ["--text-column", "report"], range(2, 72))],
)
def test_texts_are_embedded_and_not_copied(work, model, source, more, kept):
    output = work / f"{source.replace('.', '-')}.npy"
    assert ran(work, source, output.name, *more) == 0
    np.testing.assert_allclose(np.load(output), model.embed_text(TEXTS), atol=1e-6)
    lines = table(output.with_suffix(".csv"))
    assert [int(line["row"]) for line in lines] == list(kept)
    assert len({line["sha256"] for line in lines}) == len(TEXTS)
    for path in work.glob(f"{output.stem}.*"):
        assert b"Finding" not in path.read_bytes()


def test_an_array_goes_on_only_with_the_same_adapter(work, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "append", interrupting(Journal.append, 64))
        assert ran(work, "texts.txt", "cut.npy") == 130
    assert "64 of 71 texts are kept" in capsys.readouterr().err
    assert ran(work, "texts.txt", "cut.npy", adapter="other") == 1
    assert "cut.npy was begun with another adapter" in capsys.readouterr().err
    assert ran(work, "texts.txt", "cut.npy", "--half") == 1
    assert 'another numbers: "float32" there' in capsys.readouterr().err
    assert ran(work, "texts.txt", "cut.npy") == 0
    assert ran(work, "texts.txt", "uncut.npy") == 0
    assert (work / "cut.npy").read_bytes() == (work / "uncut.npy").read_bytes()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["images", "x.csv"], "--output FILE that ends in .npy, got"),
        (["images", "x.npy", "--text-column", "report"], "is neither a folder nor a table"),
        (["texts.csv", "x.npy", "--text-column", "raport"], "there is no column 'raport'; did you mean 'report'?"),
    ],
)
def test_a_wrong_command_line_is_refused(work, words, says, capsys):
    assert ran(work, *words) in (1, 2)
    assert says in capsys.readouterr().err
    assert not (work / "x.npy").exists()
