"""Organs through the task: a lesion in one organ moves that organ's score, and what is not there says nothing."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from adapters.toys import hf_clip
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from torch.utils.data import DataLoader

from domainvl.adapters import LoRA
from domainvl.backbones import SliceVolume
from domainvl.data.prompts import PromptSet
from domainvl.data.volumes.preset import VolumePreset
from domainvl.objectives import Objective, OrganContrast
from domainvl.tasks import Alignment, Teacher

VOLUME = VolumePreset("toy", (8.0, 8.0, 8.0), (3, 32, 32))
# Each organ lies in a slice of its own, which slices do not tell each other about; two of them fill half of it.
PLACES = {"lungs": (0, slice(0, 32)), "liver": (1, slice(0, 16)), "spleen": (2, slice(16, 32))}
ORGANS = list(PLACES)
CLASSES = ["nodule", "cyst", "infarct"]
ORGAN_OF = dict(zip(CLASSES, ORGANS, strict=True))


def scan(index, ill, without=(), seed=0):
    """A scan as a batch has it on the device; `ill` organs hold a lesion, those `without` are not in view."""
    draw = torch.Generator().manual_seed(1000 * seed + index)
    image = 0.3 * torch.randn(1, 3, 32, 32, generator=draw)
    organs = torch.zeros(3, 32, 32, dtype=torch.uint8)
    row = {"index": index, "group": index, "study": index, "id": f"i{index}", "patient": f"p{index}", "text": "scan"}
    for number, (name, (place, columns)) in enumerate(PLACES.items(), start=1):
        finding = CLASSES[number - 1]
        if name in ill:
            image[0, place, 4:28, columns.start + 4 : columns.stop - 4] += 2.0
        if name not in without:
            organs[place, :, columns] = number
        row[f"text@{name}"] = finding if name in ill else f"no {finding}"
    label = torch.tensor([float(name in ill) for name in ORGANS])
    return row | {"image": image, "organs": organs, "label": label, "valid": torch.ones(3, dtype=torch.bool)}


class Scans(LightningDataModule):
    classes, multilabel, preset, text_views, organ_names = CLASSES, True, VOLUME, ORGANS, tuple(ORGANS)
    prompts = PromptSet(["{}"], ["no {}"])

    def __init__(self, test=()):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        ill = [[name for name in ORGANS if torch.rand(1, generator=draw) < 0.5] for _ in range(24)]
        self.train = [scan(index, names, ["spleen"] if index % 6 == 0 else []) for index, names in enumerate(ill)]
        self.test = list(test)

    def boxes(self, position):
        return []

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=12, shuffle=True)

    def test_dataloader(self):
        return DataLoader(self.test, batch_size=4)


class Reader(Objective):
    """Keeps the features that it is told to read."""

    def __init__(self, *needs):
        super().__init__()
        self._needs, self.seen = frozenset(needs), []

    @property
    def needs(self):
        return self._needs

    def forward(self, features, batch, context):
        self.seen.append((features, batch))
        return {"loss": sum(value.sum() for value in features.values() if value.requires_grad) * 0.0}


def task(objective, **settings):
    seed_everything(3, verbose=False)
    backbone = SliceVolume(hf_clip(), VOLUME)
    return Alignment(
        backbone, LoRA(rank=4, dropout=0.0), {"organs": objective}, partial(torch.optim.AdamW, lr=0.01), **settings
    )


def trainer(folder, epochs=1):
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        max_epochs=epochs,
    )


def test_a_lesion_moves_the_score_of_its_organ_and_of_no_other(tmp_path):
    """Learned from texts of organs alone, then asked about scans that differ in one lesion."""
    pairs = [scan(2 * n + k, [ORGANS[n % 3]] * k, seed=5) for n in range(9) for k in (0, 1)]
    for n in range(9):
        # The same noise with and without, so that all that moves is the lesion.
        clean = scan(2 * n, [], seed=5)["image"]
        place, columns = PLACES[ORGANS[n % 3]]
        pairs[2 * n + 1]["image"] = clean.clone()
        pairs[2 * n + 1]["image"][0, place, 4:28, columns.start + 4 : columns.stop - 4] += 2.0
    data = Scans(pairs)
    model = task(OrganContrast(ORGANS, ["no "]), organ_of=ORGAN_OF)
    run = trainer(tmp_path, epochs=30)
    run.fit(model, data)
    run.test(model, data, verbose=False)
    found = model.predictions.by_organ
    assert found.classes == CLASSES
    moved = torch.from_numpy(found.adapted).unflatten(0, (9, 2))
    moved = moved[:, 1] - moved[:, 0]
    untouched = torch.from_numpy(found.zero_shot).unflatten(0, (9, 2)).diff(dim=1).abs().mean()
    for n, row in enumerate(moved):
        own = n % 3
        others = torch.cat([row[:own], row[own + 1 :]])
        assert row[own] > 0.5, f"lesion {n} in {ORGANS[own]}"
        assert others.abs().max() < 1e-6, f"lesion {n} in {ORGANS[own]} moved another organ"
    assert untouched < 0.1, "the untouched model knows nothing of lesions"
    measured = model.outcome().measure(seed=1)
    assert measured.adapted["organ_auroc_macro"].value > 0.95
    assert measured.per_class["cyst, in its organ"].positives == 3


def test_features_of_organs_in_every_role(tmp_path):
    keys = [f"{role}image@{name}" for role in ("", "frozen/", "ema/") for name in ("liver", "spleen")]
    reader = Reader(*(f"{key}.{stream}" for key in keys for stream in ("pooled", "mask")), "image.pooled")
    seen = {}
    for chunk in (None, 5):
        model = task(reader, teacher=Teacher(0.9), encode_chunk=chunk)
        trainer(tmp_path).fit(model, Scans())
        seen[chunk] = reader.seen[0]
        reader.seen.clear()
    for key in keys:
        torch.testing.assert_close(seen[5][0][f"{key}.pooled"], seen[None][0][f"{key}.pooled"], atol=1e-5, rtol=1e-4)
    features, batch = seen[None]
    there = [bool((batch["organs"][row] == 3).any()) for row in range(12)]
    assert features["image@spleen.mask"].tolist() == there
    assert not all(there)
    assert not features["image@spleen.pooled"][~features["image@spleen.mask"]].any()
    torch.testing.assert_close(features["image@liver.pooled"], features["frozen/image@liver.pooled"])


def test_organs_that_nobody_reads_are_not_pooled(tmp_path):
    reader = Reader("image.pooled", "image@liver.pooled")
    trainer(tmp_path).fit(task(reader), Scans())
    assert not any("spleen" in key for key in reader.seen[0][0])


@pytest.mark.parametrize(
    ("settings", "needs", "message"),
    [
        ({}, "image@kidneys.pooled", r"needs image@kidneys\.pooled, but Alignment"),
        ({"organ_of": {"nodule": "lung"}}, "image.pooled", r"organ_of names the organ 'lung'; did you mean 'lungs'"),
        ({"organ_of": {"noddle": "lungs"}}, "image.pooled", r"the class 'noddle'; did you mean 'nodule'"),
    ],
)
def test_what_nobody_makes_is_named(tmp_path, settings, needs, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path).fit(task(Reader("image.pooled", needs), **settings), Scans())


def test_training_images_pass_the_frozen_blocks_once(tmp_path, monkeypatch):
    """Losses with and without the memory are the same, organs included."""
    from domainvl.data.views import Pictures
    from domainvl.speed import Speed

    monkeypatch.setenv("DOMAINVL_CACHE", str(tmp_path / "cache"))
    losses = []
    for cache in (0.0, 1.0, 1.0):
        data = Scans()
        data.train = [row | {"view": 0} for row in data.train]
        data.pictures = lambda: Pictures("0" * 8, 1, torch.arange(24).numpy())
        model = task(OrganContrast(ORGANS, ["no "]), speed=Speed(cache=cache))
        model.adapter = LoRA(rank=4, dropout=0.0, first_block=1)
        run = trainer(tmp_path, epochs=2)
        run.fit(model, data)
        assert (model._pairs.images is not None) == (cache > 0)
        losses.append(float(run.callback_metrics["train/loss"]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == losses[1]
