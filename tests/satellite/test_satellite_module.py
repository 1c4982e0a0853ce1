"""The data module of satellite images, from tables and folders to batches."""

import numpy as np
import pytest
import torch
from scene_files import ramp, tile_table, write_scene

from data_modules import Satellite, SpatialSplit, Tiling
from data_modules.scenes.order import BlockSampler
from domainvl import samples
from domainvl.data.loading import Loading
from domainvl.data.preset import Preset

PRESET = Preset("toy", 32)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Two places on two dates, 12 x 12 tiles each; the value of a pixel says which class its tile has."""
    root = tmp_path_factory.mktemp("archive")
    rows, dates = [], []
    for place in range(2):
        for date in ("2024-06-01", "2024-09-01"):
            values = np.zeros((4, 384, 384), np.uint16)
            for n in range(144):
                left, top, kind = 32 * (n % 12), 32 * (n // 12), (n * 7 // 3) % 2
                values[:, top : top + 32, left : left + 32] = (500, 2500)[kind]
                rows.append((f"{place}_{date}.tif", left, top, 32, ("water", "sand")[kind]))
                dates.append(date)
            write_scene(root / f"{place}_{date}.tif", values, left=500_000 + 20_000 * place, ground=30.0)
    tile_table(root, rows, {"date": dates})
    return root


def module(root, **arguments):
    settings = {
        "sensor": "sentinel2-10m",
        "tiling": Tiling(size=32),
        "split": SpatialSplit(cell=3_000, fractions=(0.5, 0.2, 0.3), buffer=960),
        "preset": PRESET,
        "loading": Loading(batch_size=8, eval_batch_size=16, workers=0),
    }
    return Satellite(str(root), **{**settings, **arguments})


def test_places_are_split_with_all_their_dates(scenes, capsys):
    data = module(scenes)
    records = data.manifest.records
    assert {record.view for record in records} == {"2024-06-01", "2024-09-01"}
    by_window = {}
    for record in records:
        by_window.setdefault((record.path[0], record.part), set()).add((record.split, record.patient))
    assert all(len(found) == 1 for found in by_window.values())
    assert len(data.plan) == len(records)
    assert [data.plan.box(row) for row in range(9)] == [record.part for record in records[:9]]
    said = capsys.readouterr().err
    assert "nearest train-test pair" in said
    left_out = 576 - len(records)
    assert f"{left_out} tiles left out within it" in said
    assert len(data.rejects.notes) == data.split_facts()["left_out"] == left_out
    facts = data.split_facts()
    assert facts["nearest_train_test_m"] is None or facts["nearest_train_test_m"] >= facts["buffer_m"] > 0
    assert len(data.rejects) == 0


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("memory", [0.0, 1.0])
def test_batches_show_the_class_of_their_tiles(scenes, workers, memory):
    loading = Loading(batch_size=8, eval_batch_size=16, workers=workers, memory=memory)
    data = module(scenes, loading=loading)
    data.setup("fit")
    loader = data.train_dataloader()
    assert isinstance(loader.sampler, BlockSampler) == (memory == 0)
    seen = []
    for batch in loader:
        grey = batch["image"].float().mean(dim=(1, 2, 3)) / 255 * 3000
        assert torch.equal(grey > 1500, batch["label"] == data.classes.index("sand"))
        seen += batch["index"].tolist()
    assert len(seen) == len(set(seen))
    total = len(data.manifest.positions("train"))
    assert total - 8 < len(seen) <= total
    assert {data.manifest.records[position].split for position in seen} == {"train"}


def test_shots_are_drawn_from_different_places(scenes):
    data = module(scenes, shots=3)
    data.setup("fit")
    chosen = data.sets["train"].records
    assert len(chosen) == 6
    for kind in (0, 1):
        places = [
            record.patient for record, label in zip(chosen, data.sets["train"].label, strict=True) if label == kind
        ]
        assert len(set(places)) == 3


def test_a_random_split_has_neighbours(scenes, capsys):
    data = module(scenes, split=SpatialSplit(method="random"))
    assert len(data.manifest.records) == 576
    assert "nearest train-test pair 0 m" in capsys.readouterr().err
    assert (data.split_facts()["method"], data.split_facts()["nearest_train_test_m"]) == ("random", 0.0)


def test_the_tables_own_splits_are_kept(tmp_path, capsys):
    write_scene(tmp_path / "s.tif", ramp(4, 128, 128))
    rows = [("s.tif", 32 * (n % 4), 32 * (n // 4), 32, ("a", "b")[n % 2]) for n in range(16)]
    tile_table(tmp_path, rows, {"split": ["train"] * 12 + ["test"] * 4})
    data = module(tmp_path)
    assert [record.split for record in data.manifest.records] == ["train"] * 12 + ["test"] * 4
    assert "nearest train-test pair 0 m" in capsys.readouterr().err
    assert (data.split_facts()["method"], data.split_facts()["buffer_m"]) == ("the data set's own", None)


def test_a_folder_of_scenes_is_predicted_tile_by_tile(scenes):
    data = module(scenes, predict_folder=str(scenes), tiling=Tiling(size=64, overlap=32))
    data.setup("predict")
    images = data.sets["predict"]
    assert len(images) == 4 * 11 * 11
    batch = next(iter(data.predict_dataloader()))
    assert batch["image"].shape == (16, 3, 32, 32)
    assert "label" not in batch


def test_class_folders_of_pictures_need_no_sensor(tmp_path):
    from PIL import Image

    for n in range(40):
        path = tmp_path / ("river", "forest")[n % 2] / f"{n}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (n, 2 * n, 90)).save(path)
    data = Satellite(str(tmp_path), preset=PRESET, loading=Loading(workers=0))
    assert data.classes == ["forest", "river"]
    data.setup("test")
    assert data.sets["test"].pixels is not None


def test_samples_hold_what_they_promise(tmp_path):
    import rasterio

    from domainvl.samples.satellite.terrain import COVERS

    first = samples.write("satellite", tmp_path / "a", seed=5, patients=2)
    again = samples.write("satellite", tmp_path / "b", seed=5, patients=2)
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert all((first / name).read_bytes() == (again / name).read_bytes() for name in names)
    zones, seen = set(), set()
    for path in sorted((first / "scenes").iterdir()):
        with rasterio.open(path) as dataset:
            zones.add(dataset.crs.to_epsg())
            seen.add(path.stem.split("_")[1])
            assert dataset.descriptions == ("B02", "B03", "B04", "B08")
            assert (dataset.nodata, dataset.dtypes[0], dataset.overviews(1)) == (0, "uint16", [2, 4])
    assert zones == {32632, 32633}
    assert len(seen) == 2
    data = Satellite(str(first), sensor="sentinel2-10m", tiling=Tiling(size=96), preset=PRESET)
    assert set(data.classes) == set(COVERS)
    for record in data.manifest.records[::7]:
        left, top, width, height = record.part
        place = record.path.split("/")[1].split("_")[0]
        with rasterio.open(first / "landcover" / f"{place}.tif") as dataset:
            cover = dataset.read(1)[top : top + height, left : left + width]
        number = COVERS.index(data.classes[[label.value for label in record.labels].index("positive")]) + 1
        share = (cover == number).mean()
        assert share >= (0.6 if number < 7 else 0.03)
