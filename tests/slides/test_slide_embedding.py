"""Slides to features: what the model says of every tile, once, whatever happens in between."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from embedding_worker import PLAN, backbone, logged, module
from slide_phantoms import broken_tile, data_set, glass, save, table, tissue

from data_modules.readers.open_slide import open_slide
from data_modules.whole_slides.embedding import SlideEmbedder
from domainvl.cli import main
from domainvl.data import Loading, TooManyRejects
from domainvl.data.feature_file import read_features

CPU = torch.device("cpu")
ANY = Loading(reject_share=1.0)
WORKER = Path(__file__).with_name("embedding_worker.py")


def contents(folder):
    found = {}
    for path in sorted(folder.glob("*/*.h5")):
        with h5py.File(path) as file:
            found[path.name] = {name: file[name][()] for name in file} | {"attrs": dict(file.attrs)}
    return found


def same(one, other):
    assert one.keys() == other.keys()
    for name, parts in one.items():
        assert parts.keys() == other[name].keys()
        for key, values in parts.items():
            assert np.array_equal(values, other[name][key]) if key != "attrs" else values == other[name][key]


def test_features_are_what_the_towers_say(tmp_path):
    root = data_set(tmp_path / "data", count=2)
    model = backbone()
    done = module(root, tmp_path / "out").embed(model, CPU)
    assert (done.made, done.there, done.rejected) == (2, 0, 0)
    for number in range(2):
        slide = open_slide(root / f"s{number}.tif")
        found = read_features(done.folder / f"s{number}.h5", None)
        assert np.array_equal(found.places.at, PLAN.places(slide))
        for row in (0, len(found.deep) // 2, len(found.deep) - 1):
            x, y = found.places.at[row].tolist()
            tile = torch.from_numpy(slide.read((x, y), 96, 1.0)).permute(2, 0, 1)
            with torch.no_grad():
                tower = model.image
                deep = tower.pool(tower.run(tower.embed(model.preset(tile)[None])))
                joint = tower(model.preset(tile)[None])
            assert np.allclose(found.deep[row], deep[0], atol=5e-3)
            assert np.allclose(found.joint[row], joint[0], atol=5e-3)
    again = module(root, tmp_path / "out").embed(model, CPU)
    assert (again.made, again.there, again.tiles) == (0, 2, 0)


def test_a_slide_that_was_replaced_is_embedded_anew(tmp_path):
    root = data_set(tmp_path / "data", count=2)
    module(root, tmp_path / "out").embed(backbone(), CPU)
    save(root / "s0.tif", tissue(500, 520, seed=9))
    assert module(root, tmp_path / "out").embed(backbone(), CPU).made == 1


def test_killed_in_the_middle_of_twenty_slides_it_goes_on(tmp_path, monkeypatch):
    root, log = data_set(tmp_path / "data", count=20, size=(330, 340)), tmp_path / "log"
    module(root, tmp_path / "whole").embed(backbone(), CPU)

    command = [sys.executable, str(WORKER), str(root), str(tmp_path / "out"), str(log)]
    worker = subprocess.Popen([*command, "0.1"], stderr=subprocess.DEVNULL)
    while not (log.exists() and len(log.read_text().splitlines()) >= 8):
        assert worker.poll() is None
        time.sleep(0.02)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    there = list((tmp_path / "out").glob("builtin*/*.h5"))
    assert 5 <= len(there) < 20

    # Two go on at the same time and share what is left.
    monkeypatch.setattr(SlideEmbedder, "_embedded", logged(log, SlideEmbedder._embedded))
    with ThreadPoolExecutor(2) as pool:
        tries = [pool.submit(module(root, tmp_path / "out").embed, backbone(), CPU) for _ in range(2)]
        made = [one.result().made for one in tries]
    assert sum(made) == 20 - len(there)
    begun = log.read_text().splitlines()
    assert set(begun) == {f"s{number}.h5" for number in range(20)}
    # The slide in hand was begun twice, no other.
    assert len(begun) <= 21
    assert not [path for path in (tmp_path / "out").rglob(".*") if path.name.endswith(("draft", "lock"))]
    same(contents(tmp_path / "out"), contents(tmp_path / "whole"))


@pytest.mark.parametrize("damaged", ["one tile", "all tiles"])
def test_damaged_tiles_are_left_out_and_told(damaged, tmp_path):
    root = data_set(tmp_path / "data", count=3)
    whole = module(root, tmp_path / "whole").embed(backbone(), CPU)
    for number in range(1 if damaged == "one tile" else 6):
        broken_tile(root / "s1.tif", number=number)
    done = module(root, tmp_path / "out", loading=ANY).embed(backbone(), CPU)
    listed = (done.folder / "rejects.csv").read_text()
    if damaged == "all tiles":
        assert done.rejected == 1
        assert "none of its tiles can be read" in listed
        return
    found, full = (read_features(one.folder / "s1.h5", None) for one in (done, whole))
    assert done.rejected == 0
    assert 0 < found.damaged == len(full.deep) - len(found.deep)
    assert f"{found.damaged} damaged tiles are left out; the slide is used" in listed
    rows = [full.places.at.tolist().index(place) for place in found.places.at.tolist()]
    assert np.allclose(full.deep[rows], found.deep, atol=5e-3)


def test_slides_without_tissue_are_listed_and_the_rest_goes_on(tmp_path):
    root = data_set(tmp_path / "data", count=3)
    save(root / "s1.tif", glass())
    (root / "s2.tif").unlink()
    with pytest.raises(TooManyRejects, match="2 of 3 rows"):
        module(root, tmp_path / "out").embed(backbone(), CPU)
    done = module(root, tmp_path / "out", loading=ANY).embed(backbone(), CPU)
    assert (done.there, done.made, done.rejected) == (1, 0, 2)
    rows = (done.folder / "rejects.csv").read_text().splitlines()[1:]
    assert rows == ["3,s1.tif,no tile has enough tissue", "4,s2.tif,the file does not exist"]


def test_a_trained_tower_embeds_nothing(tmp_path):
    root, model = data_set(tmp_path / "data", count=2), backbone().requires_grad_(True)
    with pytest.raises(RuntimeError, match="the image tower is being trained"):
        module(root, tmp_path / "out").embed(model, CPU)


def test_memory_does_not_grow_with_the_slide(tmp_path, monkeypatch):
    """What lies in memory at once are two batches, however many tiles there are."""
    root = tmp_path / "data"
    root.mkdir()
    save(root / "a.tif", tissue(2000, 2000, share=1.0))
    table(root, [("a.tif", "p", "train", "x")])
    alive = []
    original = SlideEmbedder._batches

    def watched(self, pool, slide, at):
        for rows, good, pixels in original(self, pool, slide, at):
            alive.append(pixels.untyped_storage().data_ptr())
            yield rows, good, pixels

    monkeypatch.setattr(SlideEmbedder, "_batches", watched)
    done = module(root, tmp_path / "out").embed(backbone(), CPU)
    assert done.tiles > 80
    assert len(alive) > 20
    assert len(set(alive)) == 2


RECIPE = """
model:
  class_path: SlideClassification
  init_args:
    backbone: {{class_path: HuggingFace, init_args: {{name: "builtin:tiny"}}}}
data:
  class_path: {data}
  init_args: {{root: {root}{more}}}
"""


def test_the_verb(tmp_path, capsys):
    root = data_set(tmp_path / "data", count=2)
    recipe, more = tmp_path / "r.yaml", f", plan: {{mpp: 1.0, size: 96}}, embedding: {{folder: {tmp_path}/out}}"
    recipe.write_text(RECIPE.format(data="WholeSlides", root=root, more=more))
    assert main(["embed", str(recipe)]) == 0
    assert "embedded 2 (" in capsys.readouterr().out
    assert main(["embed", str(recipe)]) == 0
    assert "embedded 0 (0 tiles), there already 2, rejected 0" in capsys.readouterr().out
    recipe.write_text(RECIPE.format(data="ChestXrays", root=root, more=""))
    assert main(["embed", str(recipe)]) == 2
    assert "ChestXrays reads its images as they are and has nothing to embed" in capsys.readouterr().err
    assert main(["embed", "--help"]) == 0
    assert "embed RECIPE" in capsys.readouterr().out
