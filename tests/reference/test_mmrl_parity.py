"""MMRL against figures recorded from the authors' code: features, logits, loss and gradients of one step."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_weights import clip_state_dict, hf_model
from torch.nn.functional import normalize

from domainvl.adapters import MMRL
from domainvl.backbones.base import Backbone
from domainvl.features import TextInputs
from domainvl.objectives import ClassCrossEntropy, Context, FrozenCosine
from domainvl.towers.hf_clip import HFClipImage, HFClipText

RECORD = Path(__file__).with_name("mmrl-tiny.npz")
FEATURES, LOGITS, LOSS, GRADIENT = 1e-5, 1e-4, 1e-5, 1e-4


class Golden(Backbone):
    def __init__(self):
        super().__init__()
        self.model = hf_model("tiny", clip_state_dict("tiny", 0))
        self.image, self.text = HFClipImage(self.model), HFClipText(self.model)
        self.logit_scale, self.logit_bias = self.model.logit_scale, None

    @property
    def library(self):
        return self.model

    def tokenize(self, texts):
        raise NotImplementedError

    def spec(self):
        raise NotImplementedError


@pytest.fixture(scope="module")
def record():
    with np.load(RECORD, allow_pickle=False) as file:
        found = {key: torch.from_numpy(file[key]) for key in file.files if key != "meta"}
        return found, json.loads(str(file["meta"]))


@pytest.fixture(scope="module")
def backbone():
    return Golden().requires_grad_(False)


def ours(name):
    """The authors' name of a tensor as we call it."""
    name = name.removeprefix("representation_learner.").removeprefix("image_encoder.")
    if name == "compound_rep_tokens":
        return "space"
    if name == "proj_rep":
        return "head"
    side, rest = name.removeprefix("compound_rep_tokens_r2").split("proj.", 1)
    return f"maps.{'image' if side == 'v' else 'text'}.{rest}"


@pytest.fixture
def step(record, backbone):
    """One training step: the adapter with its gradients, all features, the loss."""
    found, meta = record
    config = meta["config"]
    # scale: the authors multiply with 100, whatever the checkpoint's own temperature is.
    adapter = MMRL(
        tokens=config["N_REP_TOKENS"],
        width=config["REP_DIM"],
        first_block=config["REP_LAYERS"][0] - 1,
        alpha=config["ALPHA"],
        scale=100.0,
    )
    adapter.attach(backbone)
    prefix = "train/"
    adapter.load_tensors({ours(k.removeprefix(prefix)): v for k, v in found.items() if k.startswith(prefix)})
    features = adapter.encode("image", backbone.image, found["in/images"])
    features |= adapter.encode("text", backbone.text, TextInputs(found["in/tokens"]))
    features |= adapter.logits(features, backbone.scale())
    with torch.no_grad(), adapter.off():
        features["frozen/image.pooled"] = backbone.image(found["in/images"])
        features["frozen/text.pooled"] = backbone.text(TextInputs(found["in/tokens"]))
    alpha, weight = config["ALPHA"], config["REG_WEIGHT"]
    objectives = [
        ClassCrossEntropy(logits="image@class.logits", weight=alpha),
        ClassCrossEntropy(logits="image@rep.logits", weight=1 - alpha),
        FrozenCosine(source="image", weight=weight),
        FrozenCosine(source="text", weight=weight),
    ]
    batch, context = {"label": found["in/labels"]}, Context(backbone.scale(), 0)
    loss = sum(o.weight * o(features, batch, context)["loss"] for o in objectives)
    loss.backward()
    return adapter, features, loss


def gap(a, b):
    return float((a.detach() - b).abs().max())


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("frozen/image.pooled", "zs/image_features"),
        ("frozen/text.pooled", "zs/text_features"),
        ("text.pooled", "eval/text_features"),
        ("image.pooled", "eval/image_features"),
        ("image.pooled", "out/image_features"),
        ("text.pooled", "out/text_features"),
    ],
)
def test_features(step, record, key, name):
    assert gap(normalize(step[1][key], dim=-1), record[0][name]) < FEATURES


@pytest.mark.parametrize("phase", ["eval", "out"])
@pytest.mark.parametrize(
    ("key", "name"),
    [("image@class.logits", "logits"), ("image@rep.logits", "logits_rep"), ("image.logits", "logits_fusion")],
)
def test_logits(step, record, phase, key, name):
    assert gap(step[1][key], record[0][f"{phase}/{name}"]) < LOGITS


def test_loss(step, record):
    assert gap(step[2], record[0]["out/loss"]) < LOSS


def test_gradients(step, record):
    grads = {name: parameter.grad for name, parameter in step[0].named_parameters()}
    recorded = {ours(k.removeprefix("grad/")): v for k, v in record[0].items() if k.startswith("grad/")}
    assert set(grads) == set(recorded)
    relative = {name: float((grads[name] - g).norm() / g.norm()) for name, g in recorded.items()}
    assert max(relative.values()) < GRADIENT, relative


def test_trains_as_many_numbers(step, record):
    assert sum(p.numel() for p in step[0].parameters()) == record[1]["trainable"]


def test_novel_classes_use_the_class_head_alone(step, backbone):
    adapter, features, _ = step
    scores = partial(adapter.logits, features, backbone.scale())
    assert torch.equal(scores(novel=True)["image.logits"], scores()["image@class.logits"])
    assert not torch.equal(scores()["image.logits"], scores()["image@class.logits"])


def test_start_is_that_of_the_paper(backbone):
    torch.manual_seed(0)
    adapter = MMRL(width=512)
    adapter.attach(backbone)
    assert adapter.space.shape == (5, 512)
    assert float(adapter.space.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(adapter.head.detach().std()) == pytest.approx(backbone.image.width**-0.5, rel=0.05)
    for maps in adapter.maps.values():
        # 5/12 of four blocks stay untouched: the paper's 6th of 12 becomes the second of 4.
        assert len(maps) == 3
        assert all(torch.equal(layer.weight, maps[0].weight) for layer in maps)
        assert len({id(layer.weight) for layer in maps}) == 3
