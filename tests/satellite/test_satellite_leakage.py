"""Copies across the splits of captioned tiles are found, and land that merely looks alike is not taken for them."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from data_modules import KarpathyCaptions, Satellite
from domainvl import samples
from domainvl.cli import main
from domainvl.data.loading import Loading
from domainvl.data.preset import Preset
from domainvl.data.texts.views import TextViews
from domainvl.tasks.leakage import leakage_of

EVERY = 11


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """Pictures of six places; splits keep places apart."""
    return samples.write("satellite", tmp_path_factory.mktemp("tiles") / "set", seed=5, patients=6)


def shared(root):
    data = Satellite(
        str(root),
        layout=KarpathyCaptions(images="chips"),
        preset=Preset("toy", 96),
        texts=TextViews({"caption": 1.0}),
        loading=Loading(workers=0),
    )
    data.setup("fit")
    return leakage_of(data).overlaps["train", "test"]


def cropped(picture, left, top, right, bottom):
    """Without so many hundredths of each side."""
    size = picture.width
    box = (round(size * left / 100), round(size * top / 100), size - round(size * right / 100))
    part = picture.crop((*box, size - round(size * bottom / 100)))
    return part.resize((size, size), Image.Resampling.BICUBIC)


EDITS = [
    (None, (0, 0, 0, 0)),  # renamed
    (50, (0, 0, 0, 0)),
    (90, (2, 4, 3, 1)),
    (90, (0, 5, 0, 0)),
    (50, (5, 5, 5, 5)),
    (50, (1, 0, 4, 5)),
]
"""JPEG quality, and what is cut away."""


def edited(source, target, number):
    quality, cut = EDITS[number % len(EDITS)]
    if quality is None:
        shutil.copy(source, target)
        return
    with Image.open(source) as picture:
        cropped(picture, *cut).save(target, quality=quality)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_planted_copies_are_found_and_disjoint_places_share_nothing(tiles, tmp_path):
    clean = shared(tiles)
    assert clean.identical_images.of > 40
    assert (clean.identical_images.count, clean.similar_images.count) == (0, 0)
    assert clean.identical_texts.count > 0

    planted = tmp_path / "planted"
    shutil.copytree(tiles, planted, ignore=shutil.ignore_patterns("scenes", "landcover"))
    read = json.loads((planted / "dataset.json").read_text())
    chosen = [entry for entry in read["images"] if entry["split"] == "train"][::EVERY]
    renamed, changed = {}, {}
    for number, entry in enumerate(chosen):
        name = f"new_{number}.jpg"
        edited(planted / "chips" / entry["filename"], planted / "chips" / name, number)
        (changed if number % len(EDITS) else renamed)[name] = entry["filename"]
        read["images"].append({**entry, "filename": name, "split": "test"})
    (planted / "dataset.json").write_text(json.dumps(read))
    found = shared(planted)
    assert (found.identical_images.count, found.similar_images.count) == (len(renamed), len(changed))
    pairs = {**dict(map(reversed, found.identical_images.pairs)), **dict(map(reversed, found.similar_images.pairs))}
    told = {test.removeprefix("chips/"): train.removeprefix("chips/") for test, train in pairs.items()}
    assert told.items() <= (renamed | changed).items()


RECIPE = """
base: {base}
data: {{init_args: {{root: {root}, layout: {{class_path: KarpathyCaptions, init_args: {{images: chips}}}}}}}}
"""


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_two_data_sets_are_compared_from_the_command_line(tiles, tmp_path, capsys, monkeypatch):
    """What was learned from before holds pictures of the test split."""
    monkeypatch.setenv("DOMAINVL_CACHE", str(tmp_path / "cache"))
    entries = json.loads((tiles / "dataset.json").read_text())["images"]
    other = tmp_path / "other"
    (other / "chips").mkdir(parents=True)
    kept = [entry for entry in entries if entry["split"] != "test"][:60]
    for entry in kept:
        shutil.copy(tiles / "chips" / entry["filename"], other / "chips")
    planted = [entry for entry in entries if entry["split"] == "test"][: len(EDITS)]
    for number, entry in enumerate(planted):
        edited(tiles / "chips" / entry["filename"], other / "chips" / f"new_{number}.jpg", number)
        kept.append({**entry, "filename": f"new_{number}.jpg", "split": "train"})
    kept = [{**entry, "split": "train"} for entry in kept]
    (other / "dataset.json").write_text(json.dumps({"images": kept}))
    base = Path(__file__).parents[2] / "recipes" / "satellite-retrieval.yaml"
    for name, root in (("mine", tiles), ("theirs", other)):
        (tmp_path / f"{name}.yaml").write_text(RECIPE.format(base=base, root=root))
    recipes = [str(tmp_path / f"{name}.yaml") for name in ("mine", "theirs")]
    assert main(["leakage", recipes[0]]) == 0
    assert "test against train: 0 of" in capsys.readouterr().out
    assert main(["leakage", *recipes, "--output", str(tmp_path / "shared.csv")]) == 1
    said = capsys.readouterr().out
    assert "LEAKAGE, mine test against theirs train: 0 of" in said
    assert f"1 identical and {len(EDITS) - 1} similar of" in said
    wanted = {(f"chips/new_{number}.jpg", f"chips/{entry['filename']}") for number, entry in enumerate(planted)}
    with (tmp_path / "shared.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["splits"] for row in rows} == {"theirs train/mine test"}
    assert {(row["first"], row["second"]) for row in rows if row["what"].endswith("_images")} == wanted


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "leakage needs a recipe"),
        (["a/x.yaml", "b/x.yaml"], "recipes are told apart by their names"),
        (["x.yaml", "y.yaml", "--data.root", "z"], "leakage takes keys of the recipe with one recipe alone"),
        (["x.yaml", "--print_config"], "--print_config shows one recipe"),
    ],
)
def test_a_wrong_call_is_named(words, says, capsys):
    assert main(["leakage", *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: {says}")
