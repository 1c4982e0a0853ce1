"""Histology patches as a data module: defaults, other stains, what cannot be read."""

import h5py
import numpy as np
import pytest
import torch
from lightning import Trainer
from PIL import Image

from data_modules import HistologyPatches, PatchCamelyon
from data_modules.readers.image import read_image
from data_modules.readers.pages import PatchFiles
from domainvl.backbones import HuggingFace
from domainvl.data.manifest import Record
from domainvl.data.preset import Preset
from domainvl.data.rejects import UnreadableImage
from domainvl.data.stain.augment import HistologyAugment
from domainvl.data.stain.shift import STAIN_SHIFTS
from domainvl.tasks import Classification

PRESET = Preset(name="toy", size=16)


@pytest.fixture
def folders(tmp_path):
    draw = np.random.default_rng(0)
    for name in ("tumor", "stroma"):
        (tmp_path / name).mkdir()
        for number in range(10):
            shade = draw.integers(60, 200, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(shade).save(tmp_path / name / f"{number}.png")
    return tmp_path


def batches(folder, **settings):
    data = HistologyPatches(str(folder), preset=PRESET, seed=0, **settings)
    data.setup("test")
    return data, [data.on_after_batch_transfer(batch, 0) for batch in data.test_dataloader()]


@pytest.mark.filterwarnings("ignore:.*no patient is known.*")
def test_another_stain_changes_the_pictures_and_the_hashes(folders):
    plain, first = batches(folders)
    shifted, second = batches(folders, stain=STAIN_SHIFTS["strong eosin"])
    assert first[0]["id"] == second[0]["id"]
    assert torch.equal(first[0]["label"], second[0]["label"])
    changed = (first[0]["image"] - second[0]["image"]).abs().mean()
    assert float(changed) > 0.02
    assert "stain" not in plain.hashes()
    assert "eosin=1.4" in shifted.hashes()["stain"]
    assert plain.decoder.digest != shifted.decoder.digest


@pytest.mark.filterwarnings("ignore:.*no patient is known.*")
def test_a_test_shows_what_other_stains_cost(folders):
    task = Classification(HuggingFace("builtin:tiny"))
    data = HistologyPatches(str(folders), seed=0, stain_shifts=True)
    trainer = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    trainer.test(task, data, verbose=False)
    found = task.outcome().measure(seed=0).as_dict()
    assert {"zero_shot", "per_class"} <= set(found)
    assert set(found["stain_shifts"]["zero_shot"]) == set(STAIN_SHIFTS)
    # The same as a test in which nothing else is shown.
    alone = HistologyPatches(str(folders), seed=0, stain=STAIN_SHIFTS["faded"])
    shifted = task._shifted["faded"].zero_shot
    trainer.test(task, alone, verbose=False)
    assert np.allclose(task.predictions.zero_shot, shifted, atol=1e-5)
    assert "stain_shifts" not in task.outcome().measure(seed=0).as_dict()


@pytest.mark.filterwarnings("ignore:.*no patient is known.*")
def test_stains_are_augmented_in_training_alone(folders):
    data = HistologyPatches(str(folders), preset=PRESET, seed=0, augment=HistologyAugment(stain=0.2))
    data.setup("fit")
    support = next(data.support_batches(0, torch.device("cpu")))
    plain = next(iter(data.val_dataloader() or data.train_dataloader()))
    assert support["image"].shape[1:] == (3, 16, 16)
    assert plain["image"].dtype == torch.uint8


def test_prompts_say_tissue(folders):
    data = HistologyPatches(str(folders), preset=PRESET)
    assert "tumor" in data.default_prompts(False).texts("tumor")[0]
    assert len(data.default_prompts(False).drawn(["tumor", "stroma"], 50)) == 6
    assert data.default_prompts(True).negatives


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 8, 8), np.uint8), r"\[H, W, 3\] is expected"),
        (np.full((2, 8, 8, 3), 300.0), "outside 0..255"),
        (np.full((2, 8, 8, 3), np.nan), "outside 0..255"),
    ],
)
def test_pictures_of_stacks_that_are_none_are_rejected(values, message, tmp_path):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(UnreadableImage, match=message):
        PatchFiles(PRESET, read_image).read(Record("a", "a.npy", "p", part=(1,)), tmp_path)


def test_pickled_stacks_are_not_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UnreadableImage, match="holds objects, which are not opened"):
        PatchFiles(PRESET, read_image).read(Record("a", "a.npy", "p", part=(0,)), tmp_path)


def test_a_data_set_under_another_name_is_named(tmp_path):
    for name in ("train", "valid", "test"):
        for end in "xy":
            with h5py.File(tmp_path / f"camelyonpatch_level_2_split_{name}_{end}.h5", "w") as file:
                file["pictures"] = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="no data set 'x'; it holds pictures"):
        PatchCamelyon().read(tmp_path)
