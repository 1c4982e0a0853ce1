"""Slides as bags of tiles: MI-Zero, the spread over prompts and tiles, few-shot heads, what is refused."""

import json

import numpy as np
import pytest
import torch
from adapters.toys import CLASSES, PRESET, hf_clip
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from torch.utils.data import DataLoader

from domainvl.adapters import ABMIL, CLAM, CLIPAdapter, Compose, CoOp, LinearProbe, LoRA, TipAdapter, ViLaMIL
from domainvl.data.prompts import PromptSet
from domainvl.evaluation import write_metrics
from domainvl.objectives import BinaryCrossEntropy, ClamInstances, ClassCrossEntropy
from domainvl.tasks import SlideClassification
from domainvl.tasks.slide import mean_of_top


class Slides(LightningDataModule):
    """Twelve slides of four patients; the tiles of a slide lean towards its class."""

    preset = PRESET

    def __init__(self, multilabel=False, templates=("a slide of {}.", "{}."), empty=False):
        super().__init__()
        self.classes, self.multilabel = list(CLASSES), multilabel
        names = {CLASSES[0]: ["healthy", "nothing"]}
        self.prompts = PromptSet(list(templates), ["no {}."] if multilabel else [], names)
        draw = torch.Generator().manual_seed(0)
        tower = hf_clip().image
        self.rows = []
        for index in range(12):
            length = 0 if empty and index == 3 else 3 + index % 4
            row = {"index": index, "id": f"s{index}", "patient": f"p{index % 4}"}
            row["keep"] = torch.arange(6) < length
            row["bag"] = torch.randn(6, tower.out_dim, generator=draw)
            row["bag"][:, index % 3] += 4
            row["bag@deep"] = torch.randn(6, tower.pooled_width, generator=draw)
            row["bag@deep"][:, index % 3] += 4
            row["place"] = torch.zeros(6, 2, dtype=torch.long)
            row["label"] = index % 3
            if multilabel:
                row["label"] = torch.tensor([float((index + c) % 2) for c in range(3)])
                row["valid"] = torch.tensor([(index + c) % 5 > 0 for c in range(3)])
            self.rows.append(row)

    def train_dataloader(self):
        return DataLoader(self.rows, batch_size=4)

    def val_dataloader(self):
        return DataLoader(self.rows, batch_size=5)

    test_dataloader = predict_dataloader = val_dataloader

    def support_batches(self, view, device):
        yield from self.train_dataloader()

    def validation_batches(self, device):
        yield from self.val_dataloader()


def task(adapter=None, multilabel=False, objectives=None, **settings):
    seed_everything(3, verbose=False)
    loss = {"loss": BinaryCrossEntropy() if multilabel else ClassCrossEntropy()}
    optimizer = lambda weights: torch.optim.AdamW(weights, lr=0.01)  # noqa: E731
    return SlideClassification(hf_clip(), adapter, loss if objectives is None else objectives, optimizer, **settings)


def trainer(folder, **settings):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        **quiet,
        **{"max_epochs": 2, "enable_checkpointing": False, "num_sanity_val_steps": 0, **settings},
    )


HEADS = {
    "abmil": lambda: ABMIL(hidden=16, width=8, dropout=0.0),
    "clam": lambda: CLAM(hidden=16, width=8),
    "vila_mil": lambda: ViLaMIL(prototypes=3, width=8),
    "probe": LinearProbe,
    "cache": lambda: TipAdapter(views=1, learn_keys=True, search=True),
    "prompts": lambda: Compose([CoOp(tokens=2), ViLaMIL(prototypes=3, width=8)]),
}


@pytest.mark.parametrize("multilabel", [False, True], ids=["single", "multi"])
@pytest.mark.parametrize("name", HEADS)
def test_heads_train_and_stand_beside_zero_shot(name, multilabel, tmp_path):
    model, data = task(HEADS[name](), multilabel), Slides(multilabel)
    run = trainer(tmp_path)
    run.fit(model, datamodule=data)
    frozen = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    run.test(model, datamodule=data, verbose=False)
    found = model.predictions
    assert found.ids == [f"s{index}" for index in range(12)]
    assert found.adapted.shape == found.zero_shot.shape == (12, 3)
    assert np.abs(found.adapted - found.zero_shot).max() > 1e-3
    assert all(torch.equal(value, frozen[key]) for key, value in model.backbone.state_dict().items())


def test_a_head_learns_what_tiles_lean_towards(tmp_path):
    model, data = task(HEADS["abmil"]()), Slides()
    run = trainer(tmp_path, max_epochs=40)
    run.fit(model, datamodule=data)
    run.test(model, datamodule=data, verbose=False)
    assert (model.predictions.adapted.argmax(axis=1) == model.predictions.labels).mean() == 1


def test_clam_trains_its_instance_loss(tmp_path):
    objectives = {"bag": ClassCrossEntropy(weight=0.7), "tiles": ClamInstances(tiles=2, subtyping=True, weight=0.3)}
    model = task(CLAM(hidden=16, width=8), objectives=objectives)
    seen = []

    class Look(Callback):
        def on_before_optimizer_step(self, *_):
            seen.append(float(objectives["tiles"].classifiers.weight.grad.abs().max()))

    trainer(tmp_path, max_epochs=1, callbacks=[Look()]).fit(model, datamodule=Slides())
    assert len(seen) == 3
    assert min(seen) > 0


@pytest.mark.parametrize("top", [1, 2, 4, 50, None])
def test_a_class_has_the_mean_of_its_highest_tiles(top):
    draw = np.random.default_rng(0)
    scores, keep = draw.normal(size=(5, 6, 3)).astype(np.float32), np.arange(6) < np.array([6, 3, 1, 5, 2])[:, None]
    expected = np.stack(
        [
            [np.sort(slide[real, c])[::-1][: real.sum() if top is None else top].mean() for c in range(3)]
            for slide, real in zip(scores, keep, strict=True)
        ]
    )
    found = mean_of_top(torch.from_numpy(scores), torch.from_numpy(keep), top)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("multilabel", [False, True], ids=["single", "multi"])
def test_zero_shot_is_mi_zero(multilabel, tmp_path):
    """Against NumPy: unit tiles times unit class features times the model's scale, the mean of the 2 highest."""
    model, data = task(top=2, multilabel=multilabel), Slides(multilabel)
    trainer(tmp_path).test(model, datamodule=data, verbose=False)
    unit = lambda rows: rows / np.linalg.norm(rows, axis=-1, keepdims=True)  # noqa: E731
    backbone = model.backbone
    groups = [data.prompts.texts(name) for name in data.classes]
    groups += [data.prompts.negative_texts(name) for name in data.classes] if multilabel else []
    with torch.no_grad():
        classes = unit(
            np.stack([unit(backbone.text(backbone.tokenize(group)).numpy()).mean(axis=0) for group in groups])
        )
    for row, slide in enumerate(data.rows):
        tiles = unit(slide["bag"][slide["keep"]].numpy())
        scores = float(backbone.scale()) * tiles @ classes.T
        if multilabel:
            scores = scores[:, :3] - scores[:, 3:]
        pooled = np.sort(scores, axis=0)[-2:].mean(axis=0)
        expected = 1 / (1 + np.exp(-pooled)) if multilabel else np.exp(pooled) / np.exp(pooled).sum()
        np.testing.assert_allclose(model.predictions.zero_shot[row], expected, rtol=1e-4)


def test_metrics_tell_the_spread_over_prompts_and_tiles(tmp_path):
    model, data = task(prompt_sets=10, top=4), Slides()
    trainer(tmp_path).test(model, datamodule=data, verbose=False)
    outcome = model.outcome()
    measured = outcome.measure(0)
    hashes = {"split": "a", "preset": "b", "backbone": "c"}
    write_metrics(tmp_path / "metrics.json", measured, split="test", hashes=hashes, seed=0)
    found = json.loads((tmp_path / "metrics.json").read_text())
    # Two templates and two names of one class.
    assert found["prompt_sets"]["drawn"] == 4
    spread = found["prompt_sets"]["metrics"]["auroc_macro"]
    assert spread["worst"] <= spread["low"] <= spread["median"] <= spread["high"] <= spread["best"]
    assert spread["worst"] < spread["best"]
    assert list(found["tiles"]) == ["1", "5", "10", "50", "100", "all"]
    # No slide has more than 6 tiles.
    assert found["tiles"]["10"] == found["tiles"]["all"] != found["tiles"]["1"]
    outcome.show(measured)
    outcome.write(tmp_path / "predictions.csv")
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 13


def test_prompt_sets_are_different_and_repeat():
    prompts = PromptSet(["a {}.", "b {}.", "c {}."], ["no {}."], {"x": ["one", "two"]})
    drawn = prompts.drawn(["x", "some_class"], 4, seed=1)
    assert len(drawn) == len({repr(one) for one in drawn}) == 4
    assert drawn == prompts.drawn(["x", "some_class"], 4, seed=1)
    assert len(prompts.drawn(["x", "some_class"], 50)) == 6
    assert all(one.texts("some_class")[0].split(" ", 1)[1] == "some class." for one in drawn)


@pytest.mark.parametrize("adapter", [LoRA(), CLIPAdapter(), Compose([LoRA(), CoOp()])], ids=lambda a: type(a).__name__)
def test_what_changes_the_image_tower_is_refused(adapter, tmp_path):
    with pytest.raises(TypeError, match="the features of tiles are finished"):
        trainer(tmp_path).fit(task(adapter), datamodule=Slides())


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match="top is 0"):
        task(top=0)
    with pytest.raises(ValueError, match="prompt_sets is 0"):
        task(prompt_sets=0)
    with pytest.raises(ValueError, match="slide s3 has no tiles"):
        trainer(tmp_path).test(task(), datamodule=Slides(empty=True), verbose=False)
    other = Slides()
    for row in other.rows:
        row["bag"] = row["bag"][:, :7]
    with pytest.raises(ValueError, match=r"7 and 40 wide, those of Toy 24 and 40.*another encoder"):
        trainer(tmp_path).test(task(), datamodule=other, verbose=False)
