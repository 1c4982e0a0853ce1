"""ABMIL, CLAM and ViLaMIL against figures recorded from their authors' code, on CPU in fp32.

abmil-tiny.npz: AMLab-Amsterdam/AttentionDeepMIL at eb0434b, `Attention` and `GatedAttention` of model.py with an
identity in place of the convolutions and smaller layers. clam-tiny.npz: mahmoodlab/CLAM at 53e2409, `CLAM_SB` and
`CLAM_MB` of models/model_clam.py with smaller layers, slide by slide, .7 cross-entropy and .3 instance loss.
vila-mil-tiny.npz: Jiangbo-Shi/ViLa-MIL at 68a11cf, `ViLa_MIL_Model` with fixed text features in place of CLIP's. Every
tensor was moved by .3 N(0, 1) first.
"""

import numpy as np
import pytest
import torch
from golden import FOLDER, GRADIENT, gap
from torch.nn.functional import cross_entropy, pad

from domainvl.adapters import ABMIL, CLAM, ViLaMIL
from domainvl.adapters._bags import TileAttention, shares
from domainvl.objectives import ClamInstances
from domainvl.objectives.base import Context

CONTEXT = Context(scale=torch.tensor(1.0), epoch=0)


def recorded(name):
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def loaded(module, found, names, prefix):
    """Give a module the authors' weights; returns what to compare gradients by."""
    own = dict(module.named_parameters())
    assert set(names) == set(own)
    with torch.no_grad():
        for ours, theirs in names.items():
            own[ours].copy_(joined(found, f"{prefix}train/", theirs).view_as(own[ours]))
    return {ours: (own[ours], joined(found, f"{prefix}grad/", theirs)) for ours, theirs in names.items()}


def joined(found, prefix, theirs):
    return torch.cat([found[prefix + one] for one in ([theirs] if isinstance(theirs, str) else theirs)])


def check_gradients(pairs):
    for name, (ours, theirs) in pairs.items():
        # The last bias of a text attention moves all classes alike: its gradient is rounding.
        assert float((ours.grad - theirs.view_as(ours)).norm()) < GRADIENT * float(theirs.norm()) + 1e-6, name


def linears(names):
    return {
        f"{ours}.{kind}": [f"{one}.{kind}" for one in theirs] if isinstance(theirs, list) else f"{theirs}.{kind}"
        for ours, theirs in names.items()
        for kind in (("weight",) if ours == "attention.score" else ("weight", "bias"))
    }


def bag(tiles, mask):
    return {"image.tokens": tiles, "image@deep.tokens": tiles, "image.mask": mask}


@pytest.mark.parametrize("name", ["plain", "gated"])
def test_abmil_is_the_authors(name):
    found = recorded("abmil-tiny")
    model = ABMIL(hidden=8, width=5, dropout=0.0, gated=name == "gated")
    model.embedding = torch.nn.Linear(800, 8)
    model.attention = TileAttention(8, 5, gated=name == "gated")
    model.classifier = torch.nn.Linear(8, 1)
    content, score = ("attention_V.0", "attention_w") if name == "gated" else ("attention.0", "attention.2")
    gate = {"attention.gate": "attention_U.0"} if name == "gated" else {}
    names = {"embedding": "feature_extractor_part2.0", "attention.content": content, "attention.score": score}
    pairs = loaded(model, found, linears({**names, **gate, "classifier": "classifier.0"}), f"{name}/")
    features = model.pool_tiles(bag(found["in"][None], torch.ones(1, 9, dtype=torch.bool)))
    assert (
        gap(shares(features["image@bag.attention"], torch.ones(1, 9, dtype=torch.bool))[0], found[f"{name}/attention"])
        < 1e-6
    )
    probability = model.logits(features, torch.tensor(1.0))["image.logits"].sigmoid()
    assert gap(probability, found[f"{name}/prob"]) < 1e-6
    loss = -probability.log().sum()
    assert gap(loss, found[f"{name}/loss"].sum()) < 1e-5
    loss.backward()
    check_gradients(pairs)


@pytest.mark.parametrize("subtyping", [False, True], ids=["plain", "subtyping"])
@pytest.mark.parametrize("name", ["sb", "mb"])
def test_clam_is_the_authors(name, subtyping):
    found = recorded("clam-tiny")
    key = f"{name}-sub" if subtyping else name
    model = (ABMIL if name == "sb" else CLAM)(hidden=12, width=6, dropout=0.0)
    model.embedding = torch.nn.Linear(10, 12)
    model.prime(torch.zeros(3, 5))
    objective = ClamInstances(tiles=4, subtyping=subtyping)
    objective.attach({"image@bag.tokens": 12, "image.logits": 3})
    scores = "classifiers" if name == "sb" else [f"classifiers.{c}" for c in range(3)]
    attention = {
        f"attention.{ours}": f"attention_net.3.attention_{theirs}"
        for ours, theirs in {"content": "a.0", "gate": "b.0", "score": "c"}.items()
    }
    pairs = loaded(
        model, found, linears({"embedding": "attention_net.0", **attention, "classifier": scores}), f"{key}/"
    )
    own = linears({"classifiers": [f"instance_classifiers.{c}" for c in range(3)]})
    pairs |= {f"objective.{k}": v for k, v in loaded(objective, found, own, f"{key}/").items()}
    slides = [found["in/bag0"], pad(found["in/bag1"], (0, 0, 0, 6), value=7.0)]
    mask = torch.arange(23) < torch.tensor([23, 17])[:, None]
    features = bag(torch.stack(slides), mask)
    features |= model.pool_tiles(features)
    features |= model.logits(features, torch.tensor(1.0))
    assert gap(features["image.logits"], found[f"{key}/logits"]) < 1e-5
    label = found["in/label"]
    instances = objective(features, {"label": label}, CONTEXT)["loss"]
    assert gap(instances, found[f"{key}/inst"].mean()) < 1e-5
    loss = 0.7 * cross_entropy(features["image.logits"], label) + 0.3 * instances
    assert gap(loss, found[f"{key}/loss"]) < 1e-5
    loss.backward()
    check_gradients(pairs)


def test_vila_mil_is_the_authors():
    found = recorded("vila-mil-tiny")
    model = ViLaMIL(prototypes=4, width=6)
    model.attach(Width(12))
    names = {"prototypes": "learnable_image_center", "norm.weight": "norm.weight", "norm.bias": "norm.bias"}
    for ours, theirs in {"summary": "cross_attention_1", "reading": "cross_attention_2"}.items():
        names |= {
            f"{ours}.{part}": f"{theirs}.{part}"
            for part in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
        }
    names |= linears(
        {
            "attention.content": "attention_V.0",
            "attention.gate": "attention_U.0",
            "attention.score": "attention_weights",
        }
    )
    pairs = loaded(model, found, names, "")
    scores = 0
    for scale, rows in (("low", slice(0, 3)), ("high", slice(3, 6))):
        tiles = found[f"in/{scale}"][None]
        features = bag(tiles, torch.ones(tiles.shape[:2], dtype=torch.bool))
        features |= model.pool_tiles(features) | {"text.pooled": 5 * found["in/text"][rows]}
        scores = scores + model.logits(features, torch.tensor(1.0))["image.logits"]
    assert gap(scores.softmax(dim=-1), found["out/prob"]) < 1e-6
    loss = cross_entropy(scores, torch.tensor([1]))
    assert gap(loss, found["out/loss"]) < 1e-5
    loss.backward()
    check_gradients(pairs)


class Width:
    """As much of a backbone as the heads ask for."""

    def __init__(self, size):
        self.image = type("Tower", (), {"out_dim": size, "pooled_width": size})
        self.logit_scale = torch.zeros(())
