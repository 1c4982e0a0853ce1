"""Copies across the splits of captioned tiles are found, and land that merely looks alike is not taken for them."""

import json
import shutil

import pytest
from PIL import Image

from data_modules import KarpathyCaptions, Satellite
from domainvl import samples
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


def cropped(picture, number):
    """Without 5 % of its margin, somewhere else each time."""
    size, cut = picture.width, round(picture.width * 0.05)
    left, top = number % (cut + 1), number * 2 % (cut + 1)
    return picture.crop((left, top, left + size - cut, top + size - cut)).resize((size, size), Image.Resampling.BICUBIC)


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
    renamed, edited = {}, {}
    for number, entry in enumerate(chosen):
        source, name = planted / "chips" / entry["filename"], f"new_{number}.jpg"
        if number % 3 == 0:
            shutil.copy(source, planted / "chips" / name)
            renamed[name] = entry["filename"]
        else:
            with Image.open(source) as picture:
                copy = picture.copy() if number % 3 == 1 else cropped(picture, number)
            copy.save(planted / "chips" / name, quality=75 if number % 3 == 1 else 90)
            edited[name] = entry["filename"]
        read["images"].append({**entry, "filename": name, "split": "test"})
    (planted / "dataset.json").write_text(json.dumps(read))
    found = shared(planted)
    assert (found.identical_images.count, found.similar_images.count) == (len(renamed), len(edited))
    pairs = {**dict(map(reversed, found.identical_images.pairs)), **dict(map(reversed, found.similar_images.pairs))}
    told = {test.removeprefix("chips/"): train.removeprefix("chips/") for test, train in pairs.items()}
    assert told.items() <= (renamed | edited).items()
