"""Maps: what is blended, what is written, and that an interrupted one goes on to the same bytes."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from scene_files import UTM33, tile_table, write_scene

from data_modules import Satellite, Tiling
from data_modules.scenes.blend import blended, hat
from data_modules.scenes.scene_map import MapSettings
from domainvl.cli import main
from domainvl.data.loading import Loading
from domainvl.data.preset import Preset

PRESET = Preset("toy", 32, mean=(0.0,) * 3, std=(1.0,) * 3)
RECIPE = str(Path(__file__).parents[2] / "recipes" / "satellite.yaml")
FILES = ("classes.tif", "scores.tif", "regions.geojson", "quicklook.png", "map.json")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Dark on the left, bright on the right, not seen in a corner; no multiple of a tile."""
    root = tmp_path_factory.mktemp("scene")
    values = np.full((4, 410, 550), 600, np.uint16)
    values[:, :, 288:] = 2400
    values[:, :96, :96] = 0
    write_scene(root / "s.tif", values, UTM33, left=400_000.0, top=5_000_000.0)
    tile_table(root, [("s.tif", 32 * n, 192, 32, ("dark", "bright")[n >= 9]) for n in range(17)])
    return root / "s.tif"


def begun(scene, folder, overlap=16, **settings):
    data = Satellite(
        str(scene.parent),
        sensor="sentinel2-10m",
        tiling=Tiling(size=32, overlap=overlap),
        preset=PRESET,
        classes=["dark", "bright"],
        loading=Loading(workers=0, eval_batch_size=7),
    )
    return data.map_scene(scene, folder, preset=None, model="m", **{"cell": None, "threshold": 0.5, **settings})


def scored(made, rows=None):
    """Score by brightness: p(bright) is the mean of the pixels."""
    for batch in made.loader(7, 0):
        if rows is not None and int(batch["place"][0, 0]) >= rows:
            return
        bright = batch["image"].float().mean(dim=(1, 2, 3)).numpy() / 255
        made.add(batch["place"], np.stack([1 - bright, bright], axis=1))


@pytest.mark.parametrize("overlap", [0, 16])
@pytest.mark.parametrize("cell", [None, 1, 32, 50])
def test_a_map_lies_where_the_scene_lies(scene, tmp_path, overlap, cell):
    made = begun(scene, tmp_path, overlap, cell=cell)
    scored(made)
    facts = made.finish()
    size = cell or (8 if overlap == 0 else 4)
    with rasterio.open(scene) as source, rasterio.open(tmp_path / "scores.tif") as scores:
        assert scores.crs == source.crs
        assert scores.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert scores.descriptions == ("dark", "bright")
        assert scores.shape == (-(-410 // size), -(-550 // size)) == (facts["rows"], facts["columns"])
        assert (scores.transform * (0, 0)) == (source.transform * (0, 0))
        assert (scores.transform * (1, 1)) == (source.transform * (size, size))
        held = scores.read()
    with rasterio.open(tmp_path / "classes.tif") as chosen:
        best = chosen.read(1)
        assert chosen.tags()["class_1"] == "bright"
        assert chosen.nodata == 255
        assert len(chosen.block_shapes) == 1
    where = lambda x, y: (slice(None), int(y // size), int(x // size))  # noqa: E731
    assert held[where(200, 300)] == pytest.approx([0.8, 0.2], abs=0.01)
    assert held[where(500, 300)] == pytest.approx([0.2, 0.8], abs=0.01)
    assert held[where(549, 409)] == pytest.approx([0.2, 0.8], abs=0.01)
    assert best[where(549, 409)[1:]] == 1
    assert np.isnan(held[where(10, 10)]).all()
    assert best[where(10, 10)[1:]] == 255
    assert not list(tmp_path.glob(".*.tmp"))
    assert not list(tmp_path.glob("*.plain.tif"))


def test_regions_cover_what_is_sure_in_longitude_and_latitude(scene, tmp_path):
    from rasterio.warp import transform

    made = begun(scene, tmp_path, 0, cell=32)
    scored(made)
    made.finish()
    found = json.loads((tmp_path / "regions.geojson").read_text())["features"]
    assert sorted(one["properties"]["class"] for one in found) == ["bright", "dark"]
    bright = next(one for one in found if one["properties"]["class"] == "bright")
    # 13 rows of cells of 32 pixels of 10 m; 9 of the 18 columns (288 is the ninth cell's edge).
    assert bright["properties"]["square_metres"] == 13 * 9 * 320**2
    ring = np.array(bright["geometry"]["coordinates"][0])
    lon, lat = transform(UTM33, "EPSG:4326", [400_000 + 2880], [5_000_000])
    assert ring[:, 0].min() == pytest.approx(lon[0], abs=0.002)
    assert ring[:, 1].max() == pytest.approx(lat[0], abs=0.002)
    x, y = ring.T
    assert (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0
    strict = begun(scene, tmp_path, 0, cell=32, threshold=0.9)
    assert strict.finish()["regions"] == 0


def test_blending_is_the_weighted_mean_of_the_tiles_that_hold_a_cell():
    rng = np.random.default_rng(0)
    tops, lefts = Tiling(size=16, overlap=8).starts(50), Tiling(size=16, overlap=8).starts(37)
    scores = rng.random((len(tops), len(lefts), 3)).astype(np.float32)
    scores[2, 1] = np.nan
    down, across = hat(tops, 16, 4, 13), hat(lefts, 16, 4, 10)
    found = np.concatenate([strip for _, strip in blended(lambda row: scores[row], down, across, 5)], axis=1)
    for y in range(13):
        for x in range(10):
            sums, mass = np.zeros(3), 0.0
            for row, top in enumerate(tops):
                for column, left in enumerate(lefts):
                    middle = (min(4 * y + 2, tops[-1] + 15.5), min(4 * x + 2, lefts[-1] + 15.5))
                    away = max(0, 1 - abs(middle[0] - top - 8) / 8) * max(0, 1 - abs(middle[1] - left - 8) / 8)
                    if away and not np.isnan(scores[row, column, 0]):
                        sums, mass = sums + away * scores[row, column], mass + away
            assert found[:, y, x] == pytest.approx(sums / mass, abs=1e-5)


def test_an_interrupted_map_goes_on_to_the_same_bytes(scene, tmp_path):
    whole = begun(scene, tmp_path / "whole")
    scored(whole)
    whole.finish()
    # A process that is killed with no chance to clean up.
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        scored(begun(scene, tmp_path / "killed"), rows=9)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    again = begun(scene, tmp_path / "killed")
    assert again.missing[0] == 8
    assert len(again.missing) == len(whole.tiles.tops) - 8
    scored(again)
    again.finish()
    for name in FILES:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_a_folder_of_another_map_is_refused(scene, tmp_path):
    begun(scene, tmp_path)
    with pytest.raises(ValueError, match="another scene, model or setting"):
        begun(scene, tmp_path, 0)


@pytest.mark.parametrize("settings", [{"cell": 0}, {"threshold": 1.5}], ids=str)
def test_settings_of_maps_are_checked(settings):
    with pytest.raises(ValueError, match="MapSettings"):
        MapSettings(**settings)


COMMANDS = [
    ([], "map needs a recipe"),
    (["RECIPE"], "map needs --scene"),
    (["RECIPE", "--scene", "SCENE"], "map needs --out"),
    (["RECIPE", "--scene", "s.tfi", "--out", "o"], "there is no file"),
]


@pytest.mark.parametrize(("words", "says"), COMMANDS, ids=[says for _, says in COMMANDS])
def test_the_command_line_says_what_is_missing(scene, words, says, capsys):
    places = {"RECIPE": RECIPE, "SCENE": str(scene)}
    assert main(["map", *(places.get(word, word) for word in words)]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.slow
def test_a_scene_is_mapped_from_the_command_line(scene, tmp_path, capsys):
    out = tmp_path / "map"
    words = [
        "map",
        RECIPE,
        "--scene",
        str(scene),
        "--out",
        str(out),
        "--data.root",
        str(scene.parent),
    ]
    words += ["--data.sensor", "sentinel2-10m", "--data.tiling.overlap", "48", "--data.classes", "[dark, bright]"]
    assert main(words) == 0
    assert "map of 35 x 46 cells" in capsys.readouterr().out
    assert all((out / name).exists() for name in FILES)

    # A file that is cut short says so, in a line, also when a worker process met it.
    broken = tmp_path / "broken.tif"
    noise = np.random.default_rng(0).integers(1, 3000, (4, 512, 512)).astype(np.uint16)
    write_scene(broken, noise)
    broken.write_bytes(broken.read_bytes()[:-60_000])
    words[words.index("--scene") + 1], words[words.index("--out") + 1] = str(broken), str(tmp_path / "other")
    assert main(words) == 1
    assert "the raster is damaged or cut short" in capsys.readouterr().err
