"""From a table of slides to batches: the keys that tasks read, splits by patient, what is refused and what goes on."""

import copy
import csv

import h5py
import numpy as np
import pytest
import torch
from embedding_worker import PLAN, backbone, module
from lightning.pytorch import LightningModule, Trainer
from slide_phantoms import data_set, glass, save, table, tissue

from data_modules import Embedding, SlideTable, TilePlan, WholeSlides
from data_modules.readers.slide_tiles import TilePlan as Plan
from domainvl.data import Loading, SplitRule, TooManyRejects
from domainvl.data.bags import Bag, padded, thinned
from domainvl.data.feature_file import read_features

CPU = torch.device("cpu")
ALL = Loading(batch_size=4, eval_batch_size=4, reject_share=0.5, workers=0)


class Task(LightningModule):
    """Whatever has a backbone."""

    def __init__(self):
        super().__init__()
        self.backbone = backbone()


@pytest.fixture(scope="module")
def task():
    return Task()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A trainer without a folder lists rejects where it is called."""
    monkeypatch.chdir(tmp_path)


def ready(slides, task, stage="fit"):
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    slides.trainer, trainer.strategy._lightning_module = trainer, task
    slides.setup(stage)
    return slides


def finished(slides, loader):
    return [slides.on_after_batch_transfer(batch, 0) for batch in loader]


def test_a_batch_holds_what_tasks_read(tmp_path, task):
    root = data_set(tmp_path / "data", count=8)
    save(root / "s6.tif", tissue(900, 900, seed=6))
    slides = ready(module(root, tmp_path / "out", loading=ALL), task, "test")
    (batch,) = finished(slides, slides.test_dataloader())
    records = [slides.manifest.records[index] for index in batch["index"].tolist()]
    assert batch["id"] == [record.id for record in records] == ["s6.tif", "s7.tif"]
    assert batch["patient"] == ["p6", "p7"]
    assert [slides.classes[label] for label in batch["label"].tolist()] == ["tumor", "necrosis"]
    bag, deep, keep, place = (batch[key] for key in ("bag", "bag@deep", "keep", "place"))
    tower = task.backbone.image
    longest = int(keep.sum(1).max())
    assert bag.shape == (2, longest, tower.out_dim)
    assert deep.shape == (2, longest, tower.pooled_width)
    assert place.shape == (2, longest, 2)
    assert (bag.dtype, deep.dtype, keep.dtype, place.dtype) == (torch.float32, torch.float32, torch.bool, torch.long)
    assert keep.sum(1).tolist()[0] > keep.sum(1).tolist()[1]
    assert not bag[~keep].any()
    for row, record in enumerate(records):
        found = read_features(slides.decoder.files.features(record), None)
        count = len(found.deep)
        assert keep[row].tolist() == [True] * count + [False] * (longest - count)
        assert torch.equal(bag[row, :count], torch.from_numpy(found.joint).float())
        assert torch.equal(deep[row, :count], torch.from_numpy(found.deep).float())
        assert torch.equal(place[row, :count], torch.from_numpy(found.places.at))
    assert torch.allclose(tower.project(deep[keep]), bag[keep], atol=1e-2)
    assert slides.hashes()["tiles"] == PLAN.digest


@pytest.mark.parametrize("memory", [2.0, 0.0])
def test_bags_are_the_same_from_memory_and_from_files(memory, tmp_path, task):
    root = data_set(tmp_path / "data", count=8)
    loading = Loading(batch_size=3, workers=2, memory=memory, drop_last=False)
    slides = ready(module(root, tmp_path / "out", loading=loading), task)
    assert (slides.sets["train"].pixels is None) == (memory == 0)
    total = torch.zeros(task.backbone.image.out_dim)
    for batch in finished(slides, slides.train_dataloader()):
        total += batch["bag"].sum((0, 1))
    files = [read_features(slides.decoder.files.features(record), None) for record in slides.sets["train"].records]
    assert torch.allclose(total, sum(torch.from_numpy(one.joint).float().sum(0) for one in files), rtol=1e-4)


@pytest.mark.parametrize(("shots", "validate"), [(1, 1), (3, 3), (6, 4)])
def test_shots_are_patients_and_validation_is_no_larger(shots, validate, tmp_path, task):
    root, rows = tmp_path / "data", []
    root.mkdir()
    save(root / "s0.tif", tissue(330, 340))
    for number in range(40):
        # Two slides of every patient, all of them the same file by another name.
        name = f"s{number}.tif"
        if number:
            (root / name).hardlink_to(root / "s0.tif")
        rows.append(
            (name, f"p{number // 2}", ("train", "validate")[number // 2 % 20 >= 12], ("a", "b")[number // 2 % 2])
        )
    table(root, rows)
    drawn = []
    for seed in (1, 1, 2):
        slides = ready(module(root, tmp_path / "out", shots=shots, seed=seed), task)
        train, held = slides.sets["train"].records, slides.sets["validate"].records
        assert len(train) == len({record.patient for record in train}) == 2 * shots
        assert len(held) == 2 * min(validate, 4) <= len(train)
        assert not {record.patient for record in train} & {record.patient for record in held}
        drawn.append([record.id for record in train])
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2] or shots == 6
    # Only what was drawn was embedded.
    assert len(list((tmp_path / "out").glob("builtin*/*.h5"))) < 40


def test_training_takes_some_tiles_and_evaluation_all(tmp_path, task):
    root = data_set(tmp_path / "data", count=8)
    slides = ready(module(root, tmp_path / "out", tiles=3, loading=ALL), task)
    slides.trainer.training = True
    torch.manual_seed(0)
    first, second = (finished(slides, slides.train_dataloader())[0] for _ in range(2))
    assert first["bag"].shape[1] == first["place"].shape[1] == 3
    assert first["keep"].all()
    assert not all(torch.equal(first["place"][row], second["place"][row]) for row in range(2))
    slides.trainer.validating = True
    assert finished(slides, slides.train_dataloader())[0]["bag"].shape[1] > 3


def test_thinning_keeps_real_tiles_and_their_order():
    def bag(length):
        rows = torch.arange(1.0, length + 1)[:, None]
        return Bag(rows, rows.repeat(1, 2), rows.long().repeat(1, 2))

    batch = thinned(padded([bag(9), bag(3), bag(5)]), 4)
    assert batch["keep"].tolist() == [[True] * 4, [True] * 3 + [False], [True] * 4]
    for row, count in ((0, 4), (1, 3), (2, 4)):
        kept = batch["bag"][row, :count, 0]
        assert (kept > 0).all()
        assert kept.tolist() == sorted(set(kept.tolist()))
        assert torch.equal(batch["place"][row, :count, 0], kept.long())
        assert torch.equal(batch["bag@deep"][row, :count, 1], kept)
    whole = padded([bag(3)])
    assert torch.equal(thinned(whole, 4)["bag"], whole["bag"])


def test_features_that_are_there_need_no_slides(tmp_path, task):
    root = data_set(tmp_path / "data", count=8)
    made = module(root, tmp_path / "out").embed(task.backbone, CPU)
    for slide in root.glob("*.tif"):
        slide.unlink()
    embedding = Embedding(features=str(made.folder))
    slides = ready(WholeSlides(str(root), plan=PLAN, embedding=embedding, loading=ALL), task, "test")
    (batch,) = finished(slides, slides.test_dataloader())
    assert batch["id"] == ["s6.tif", "s7.tif"]
    assert batch["bag"].abs().sum() > 0
    other = WholeSlides(str(root), plan=TilePlan(mpp=0.5, size=96), embedding=embedding, loading=ALL)
    with pytest.raises(ValueError, match=r"none of the 2 test .*of another tile plan"):
        ready(other, task, "test")
    with pytest.raises(ValueError, match="nothing is embedded"):
        WholeSlides(str(root), embedding=embedding).embed(task.backbone, CPU)


def test_one_file_of_another_encoder_is_listed_and_the_run_goes_on(tmp_path, task):
    root = data_set(tmp_path / "data", count=16)
    made = module(root, tmp_path / "out").embed(task.backbone, CPU)
    with h5py.File(made.folder / "s7.h5", "r+") as file:
        file.attrs.update({"encoder": "uni", "encoder_sha": "ffffffffffff"})
    with h5py.File(made.folder / "s14.h5", "r+") as file:
        file.attrs["preprocess_sha"] = "ffffffffffff"
    slides = WholeSlides(str(root), plan=PLAN, embedding=Embedding(features=str(made.folder)), loading=ALL)
    ready(slides, task, "test")
    assert [record.id for record in slides.sets["test"].records] == ["s6.tif", "s15.tif"]
    reasons = [reject.reason for reject in slides.rejects]
    assert "another encoder: uni (ffffffffffff), wanted is builtin:tiny" in reasons[0]
    assert "another preprocessing: ffffffffffff" in reasons[1]


def test_unsigned_features_are_projected_here(tmp_path, task):
    root = data_set(tmp_path / "data", count=8)
    width = task.backbone.image.pooled_width
    (tmp_path / "clam").mkdir()
    rows = {f"s{n}": np.random.default_rng(n).normal(size=(1, 5, width)).astype(np.float32) for n in range(8)}
    for name, values in rows.items():
        with h5py.File(tmp_path / "clam" / f"{name}.h5", "w") as file:
            file["features"], file["coords"] = values, np.zeros((1, 5, 2), np.int32)
    embedding = Embedding(features=str(tmp_path / "clam"), unsigned=True)
    slides = ready(WholeSlides(str(root), embedding=embedding, loading=ALL), task, "test")
    (batch,) = finished(slides, slides.test_dataloader())
    expected = task.backbone.image.project(torch.from_numpy(rows["s6"][0]))
    assert torch.allclose(batch["bag"][0], expected, atol=5e-3)
    with h5py.File(tmp_path / "clam" / "s6.h5", "r+") as file:
        del file["features"]
        file["features"] = np.zeros((5, 1024), np.float32)
    slides = WholeSlides(str(root), embedding=embedding, loading=ALL)
    ready(slides, task, "test")
    assert "its features have 1024 numbers" in next(iter(slides.rejects)).reason


def test_missing_resolutions_are_all_named_before_anything_is_read(tmp_path, task):
    root = data_set(tmp_path / "data", count=8)
    for number in (1, 4):
        save(root / f"s{number}.tif", tissue(330, 340), mpp=None)
    with pytest.raises(ValueError, match=r"of 2 slide\(s\) .*\(row 3, row 6\).*add a column `mpp`"):
        ready(module(root, tmp_path / "out"), task)
    assert not (tmp_path / "out").exists()

    with (root / "slides.csv").open() as file:
        rows = [{**row, "mpp": "1" if row["slide"] in ("s1.tif", "s4.tif") else ""} for row in csv.DictReader(file)]
    table(root, [tuple(row.values()) for row in rows], tuple(rows[0]))
    slides = module(root, tmp_path / "out")
    assert slides.manifest.classes == ("necrosis", "tumor")
    assert slides.slide(slides.manifest.records[1], root).mpp == 1.0
    assert slides.slide(slides.manifest.records[2], root).mpp == 0.5


def test_slides_that_cannot_be_used_are_listed_and_the_run_goes_on(tmp_path, task):
    root = data_set(tmp_path / "data", count=16)
    (root / "s7.tif").write_bytes((root / "s7.tif").read_bytes()[:3000])
    save(root / "s14.tif", glass())
    (root / "s15.tif").unlink()
    slides = ready(module(root, tmp_path / "out", loading=ALL), task, "test")
    assert [record.id for record in slides.sets["test"].records] == ["s6.tif"]
    found = {reject.path: reject.reason for reject in slides.rejects}
    assert set(found) == {"s7.tif", "s14.tif", "s15.tif"}
    assert found["s14.tif"] == "no tile has enough tissue"
    assert found["s15.tif"] == "the file does not exist"
    strict = module(root, tmp_path / "out", loading=Loading(reject_share=0.01))
    with pytest.raises(TooManyRejects):
        ready(strict, task, "test")


def test_class_folders_and_folders_to_predict(tmp_path, task):
    for number in range(6):
        folder = tmp_path / "data" / ("benign", "tumor")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        save(folder / f"s{number}.svs", tissue(330, 340, seed=number))
    with pytest.warns(UserWarning, match="no patient is known"):
        slides = ready(
            module(
                tmp_path / "data",
                tmp_path / "out",
                split=SplitRule(fractions=(0.0, 0.0, 1.0)),
                predict_folder=str(tmp_path / "data" / "tumor"),
            ),
            task,
            "test",
        )
    assert slides.classes == ["benign", "tumor"]
    assert len(slides.sets["test"]) == 6
    slides.setup("predict")
    (batch,) = finished(slides, slides.predict_dataloader())
    assert batch["id"] == ["s1.svs", "s3.svs", "s5.svs"]
    assert "label" not in batch


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"table": SlideTable()}, "table is given without a root"),
        ({"tiles": 0}, "tiles is 0"),
        ({"shots": 0}, "shots is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        WholeSlides(**options)
    with pytest.raises(ValueError, match="batch_size is 0"):
        Embedding(batch_size=0)
    with pytest.raises(ValueError, match="unsigned is about files in `features`"):
        Embedding(unsigned=True)


def test_names_that_would_share_a_file_are_refused(tmp_path, task):
    root = data_set(tmp_path / "data", count=2)
    save(root / "s0.svs", tissue(330, 340))
    table(root, [("s0.tif", "p0", "train", "a"), ("s0.svs", "p1", "train", "b")])
    with pytest.raises(ValueError, match=r"row 2 and row 3 .*s0\.h5; rename one"):
        ready(module(root, tmp_path / "out"), task)
    bare = WholeSlides(str(data_set(tmp_path / "more", count=2)), plan=copy.copy(Plan()))
    with pytest.raises(ValueError, match="no backbone is known"):
        bare.setup("fit")
