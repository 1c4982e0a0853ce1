"""Pairs of image and report: what is computed, what learns, and what a resumed run remembers."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from adapters.toys import PRESET, hf_clip
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader

from domainvl.adapters import LoRA
from domainvl.data.boxes import Box
from domainvl.data.prompts import PromptSet
from domainvl.objectives import InfoNCE, Objective
from domainvl.objectives.targets import Momentum, SameGroup
from domainvl.tasks import Alignment, Queue, Teacher

CLASSES = ["nodule", "effusion"]
WORDS = ["large", "small", "left", "right", "upper", "lower", "effusion", "nodule"]


class Pairs(LightningDataModule):
    """Twelve random images of six patients, each with a report of its own."""

    classes, multilabel, preset, text_views = CLASSES, True, PRESET, ["caption"]
    prompts = PromptSet(["{}"], ["no {}"])

    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.rows = []
        for index in range(12):
            words = [WORDS[int(one)] for one in torch.randint(len(WORDS), (3 + index % 4,), generator=draw)]
            image = torch.randn(3, PRESET.size, PRESET.size, generator=draw)
            self.rows.append(
                {
                    "image": image,
                    "image@second": image.flip(-1),
                    "text": " ".join(words) + ".",
                    "text@caption": " ".join(reversed(words)),
                    "index": index,
                    "group": index // 2,
                    "study": index,
                    "id": f"i{index}",
                    "patient": f"p{index // 2}",
                    "label": torch.tensor([float(index % 2), float(index % 3 == 0)]),
                    "valid": torch.tensor([True, index % 5 > 0]),
                }
            )

    def boxes(self, position):
        return [Box("a nodule", 4, 4, 20, 12, 40, 32)] if position % 3 else []

    def train_dataloader(self):
        return DataLoader(self.rows, batch_size=4, shuffle=False)

    def val_dataloader(self):
        return DataLoader(self.rows, batch_size=5)

    test_dataloader = predict_dataloader = val_dataloader


class Reader(Objective):
    """Reads what it is told to, and remembers what it was given."""

    def __init__(self, *needs, weight=1.0):
        super().__init__(weight)
        self._needs, self.seen, self.sizes = frozenset(needs), [], {}

    @property
    def needs(self):
        return self._needs

    def attach(self, sizes):
        self.sizes = dict(sizes)
        self.head = nn.Linear(sizes["image.pooled"], 1)

    def forward(self, features, batch, context):
        self.seen.append(({key: value.detach().clone() for key, value in features.items()}, dict(batch), context))
        return {"loss": self.head(features["image.pooled"]).mean() * context.scale}


def task(objectives=None, **settings):
    seed_everything(3, verbose=False)
    chosen = {"pairs": InfoNCE()} if objectives is None else objectives
    return Alignment(hf_clip(), LoRA(rank=2, dropout=0.0), chosen, partial(torch.optim.AdamW, lr=0.01), **settings)


def trainer(folder, **settings):
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **{"max_epochs": 2, "enable_checkpointing": False, "num_sanity_val_steps": 0, **settings},
    )


def test_training_moves_the_adapter_and_nothing_else(tmp_path):
    model = task()
    seed_everything(3, verbose=False)
    untouched = hf_clip()
    trainer(tmp_path).fit(model, Pairs())
    learned = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert learned
    assert all("lora_" in name for name in learned)
    assert any(weight.abs().max() > 0 for name, weight in model.named_parameters() if "lora_B" in name)
    image = torch.randn(2, *PRESET.shape)
    with torch.no_grad(), model.adapter.off():
        torch.testing.assert_close(model.backbone.image(image), untouched.image(image), rtol=0, atol=0)


def test_only_what_is_read_is_computed(tmp_path):
    reader = Reader("image.pooled", "frozen/text.pooled")
    trainer(tmp_path, max_epochs=1).fit(task({"reader": reader}), Pairs())
    assert set(reader.seen[0][0]) == {"image.pooled", "frozen/text.pooled"}


def test_an_objective_of_weight_zero_is_not_there(tmp_path):
    model = task({"pairs": InfoNCE(), "off": Reader("ema/image.pooled", "batch:colour", weight=0.0)})
    trainer(tmp_path, max_epochs=1).fit(model, Pairs())
    assert list(model.objectives) == ["pairs"]


def test_every_role_view_and_stream_arrives_as_documented(tmp_path):
    needs = [
        *("image.pooled", "image.tokens", "image.mask", "image.grid", "image@second.pooled", "frozen/image.pooled"),
        *("text.pooled", "text.tokens", "text.mask", "text.sentences", "text@caption.pooled", "batch:group"),
        *("ema/image.pooled", "ema/image@second.pooled", "ema/text.tokens", "ema/text.mask"),
        *("queue/image.pooled", "batch:queue/group"),
    ]
    reader = Reader(*needs)
    model = task({"reader": reader}, teacher=Teacher(0.5), queue=Queue(6))
    trainer(tmp_path, max_epochs=1).fit(model, Pairs())
    features, batch, context = reader.seen[-1]
    words = features["text.tokens"].shape[1]
    assert features["image.tokens"].shape == (4, 4, 24)
    assert features["image.grid"].tolist() == [2, 2]
    assert features["text.mask"].sum(1).tolist() == [len(text.split()) for text in batch["text"]]
    assert features["text.sentences"].shape == (4, words)
    assert features["text.sentences"].max() == 0
    # The teacher began as the student and follows at half the pace.
    first = reader.seen[0][0]
    torch.testing.assert_close(first["ema/image.pooled"], first["image.pooled"])
    assert not torch.allclose(features["ema/image.pooled"], features["image.pooled"])
    assert [len(one["queue/image.pooled"]) for one, _, _ in reader.seen] == [0, 4, 6]
    assert batch["queue/group"].tolist() == [2, 3, 0, 1, 1, 2] or sorted(batch["queue/group"].tolist()) == [
        1,
        1,
        2,
        2,
        3,
        3,
    ]
    torch.testing.assert_close(reader.seen[1][0]["queue/image.pooled"], reader.seen[0][0]["ema/image.pooled"])
    assert reader.sizes["image.pooled"] == 24
    assert context.step == 2


def test_chunks_change_memory_and_no_gradient(tmp_path):
    gradients = []
    for chunk in (None, 1, 3):
        model = task(
            {"pairs": InfoNCE(), "local": Reader("image.pooled", "text.tokens", "text.mask")}, encode_chunk=chunk
        )
        model.optimizer = partial(torch.optim.SGD, lr=1.0)
        trainer(tmp_path, max_steps=1, limit_train_batches=1).fit(model, Pairs())
        gradients.append({name: weight.detach() for name, weight in model.named_parameters() if "lora_B" in name})
    for other in gradients[1:]:
        for name, weight in gradients[0].items():
            torch.testing.assert_close(other[name], weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (("ema/image.pooled",), "teacher"),
        (("batch:queue/group",), "queue"),
        (("image.pooled", "image@rep.pooled"), "image@rep.pooled"),
        (("image.pooled", "text@rewritten.pooled"), "text@rewritten.pooled"),
        (("image.pooled", "batch:colour"), "colour"),
    ],
)
def test_what_nobody_makes_is_named(tmp_path, needs, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path).fit(task({"reader": Reader(*needs)}), Pairs())


def test_a_resumed_run_is_the_run_that_was_interrupted(tmp_path):
    def make():
        rules = [SameGroup(), Momentum(alpha=0.4)]
        return task({"pairs": InfoNCE(targets=rules, queue=True, teacher=True)}, teacher=Teacher(0.9), queue=Queue(7))

    whole = make()
    trainer(tmp_path, max_epochs=4).fit(whole, Pairs())
    first, run = make(), trainer(tmp_path, max_epochs=2)
    run.fit(first, Pairs())
    second = make()
    run.save_checkpoint(tmp_path / "half.ckpt")
    trainer(tmp_path, max_epochs=4).fit(second, Pairs(), ckpt_path=tmp_path / "half.ckpt")
    expected, found = whole.state_dict(), second.state_dict()
    for name in expected:
        assert torch.equal(expected[name], found[name]), name


def test_the_temperature_learns_when_told_to_and_stays_below_its_limit(tmp_path):
    model = task(train_temperature=True)
    start = model.backbone.logit_scale.item()
    trainer(tmp_path, max_epochs=1).fit(model, Pairs())
    assert model.backbone.logit_scale.item() != start
    model.backbone.logit_scale.data.fill_(9.0)
    model.on_train_batch_end(None, None, 0)
    assert model.backbone.scale().item() == pytest.approx(100.0, rel=1e-5)
    groups = model.optimizer_groups()
    assert groups[1]["weight_decay"] == 0.0
    assert groups[1]["params"][0] is model.backbone.logit_scale
