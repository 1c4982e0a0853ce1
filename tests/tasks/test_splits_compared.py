"""Splits are compared before training: what leaks is said at once, in counts, and stands in the result."""

from __future__ import annotations

import csv
import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from adapters.toys import PRESET, hf_clip
from lightning.pytorch import seed_everything
from PIL import Image
from tasks.test_alignment import trainer

from data_modules import ChestXrays
from data_modules.ct import Preparation, VolumeFiles
from domainvl import samples
from domainvl.adapters import LoRA
from domainvl.data import Loading, TextViews
from domainvl.data.decoder import PictureDecoder
from domainvl.data.images import ImageSet
from domainvl.data.volumes.decoder import VolumeDecoder
from domainvl.data.volumes.preset import VolumePreset
from domainvl.objectives import InfoNCE
from domainvl.tasks import Alignment
from domainvl.tasks.leakage import fingerprints, leakage_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DOMAINVL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def archive(tmp_path):
    """Reports with images; two test images are training images of somebody else, one of them saved anew."""
    folder = samples.write("cxr-reports", tmp_path / "archive", seed=3, patients=30)
    with (folder / "studies.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["image"].endswith(".jpg")]
    train, test = ([row["image"] for row in rows if row["split"] == split] for split in ("train", "test"))
    (folder / test[0]).write_bytes((folder / train[0]).read_bytes())
    Image.open(folder / train[1]).save(folder / test[1], quality=60)
    return folder


def data(folder, memory=2.0):
    texts = TextViews(views={"impression": 1.0})
    return ChestXrays(root=str(folder), texts=texts, loading=Loading(batch_size=8, workers=0, memory=memory))


def task(**settings):
    seed_everything(3, verbose=False)
    optimizer = partial(torch.optim.SGD, lr=0.01)
    return Alignment(hf_clip(), LoRA(rank=2, dropout=0.0), {"pairs": InfoNCE()}, optimizer, **settings)


@pytest.mark.parametrize("memory", [2.0, 0.0])
def test_copies_are_told_before_training_and_stand_in_the_result(archive, tmp_path, memory):
    model, module = task(), data(archive, memory)
    run = trainer(tmp_path, max_steps=1)
    with pytest.warns(UserWarning, match=r"LEAKAGE, test against train: 0 of \d+ patients, 1 identical and 1") as said:
        run.fit(model, datamodule=module)
    told = " ".join(str(warning.message) for warning in said)
    assert not any(record.id in told or record.patient in told for record in module.manifest.records)
    run.test(model, datamodule=module, verbose=False)
    found = model.outcome().measure(0).as_dict()["leakage"]
    assert list(found) == ["crops", "train/validate", "train/test", "validate/test"]
    assert found["train/test"]["identical_images"]["count"] == found["train/test"]["similar_images"]["count"] == 1
    assert found["train/test"]["patients"]["count"] == found["train/validate"]["identical_images"]["count"] == 0


def test_a_clean_archive_is_quiet_and_the_check_can_be_left_out(archive, tmp_path, monkeypatch):
    clean = samples.write("cxr-reports", tmp_path / "clean", seed=4, patients=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert not leakage_of(prepared(clean)).alarms()
    model = task(compare_splits=False)
    run, module = trainer(tmp_path, max_steps=1), data(archive)
    run.fit(model, datamodule=module)
    run.test(model, datamodule=module, verbose=False)
    assert model.outcome().measure(0).as_dict()["leakage"] is None


def prepared(folder, memory=0.0):
    module = data(folder, memory)
    module._preset = PRESET
    module.setup("fit")
    return module


def test_files_are_read_once(archive, monkeypatch):
    read, seen = ImageSet.read, []
    monkeypatch.setattr(ImageSet, "read", lambda self, item: seen.append(self.records[item].id) or read(self, item))
    module = prepared(archive)
    first = leakage_of(module, cache=0.1)
    everything = sorted(record.id for record in module.manifest.records)
    assert sorted(seen) == everything
    seen.clear()
    assert leakage_of(prepared(archive), cache=0.1).as_dict() == first.as_dict()
    assert not seen
    assert first.as_dict() == leakage_of(prepared(archive, memory=2.0)).as_dict()
    # A file that changed is another one; one that cannot be read has no fingerprint.
    changed, broken = (archive / record.path for record in module.manifest.records[:2])
    Image.new("L", (64, 64)).save(changed, "JPEG")
    broken.write_bytes(b"")
    seen.clear()
    leakage_of(prepared(archive), cache=0.1)
    assert len(seen) == 2


def test_slices_of_volumes_are_no_colours(tmp_path):
    """Volumes of one shape look alike slice by slice, so as pictures they would be called copies."""
    preset = VolumePreset("few slices", (8.0, 8.0, 30.0), (6, 40, 40))
    preparation = Preparation(folder=str(tmp_path))
    volumes = VolumeDecoder(preparation.store(preset), preset, VolumeFiles(limit=2**20))
    pictures = PictureDecoder(PRESET, Image.open)
    for decoder, compared in ((volumes, False), (pictures, True)):
        images = SimpleNamespace(decoder=decoder, pixels=torch.zeros(2, *decoder.shape, dtype=decoder.dtype))
        assert (fingerprints(images) is not None) is compared
