"""TCL against figures recorded from the authors' code.

tcl.npz: uta-smile/TCL at 74a3e4f, the forward of its pre-training model unmodified on CPU in fp32, one process. Six
records of 16 patches and up to 6 words, width 12, a queue of 18; the encoders were replaced by random features and the
projections by the identity, so that what is recorded is the loss alone: the mean of the six terms at alpha 0 and 0.4,
and the two local-global terms by themselves. temp 0.07. Four patches a side make the authors' pooling window 2.
"""

import pytest
import torch
from golden import GRADIENT, LOSS, gap, record, relative
from jsonargparse import ArgumentParser

from domainvl.objectives import Context, Objective, TclLocalGlobal

FOUND, META = record("tcl")


def offered():
    image, text = (FOUND[f"in/{side}"].clone().requires_grad_() for side in ("image", "text"))
    teacher = {side: FOUND[f"in/ema_{side}"] for side in ("image", "text")}
    everything = torch.ones(6, 16, dtype=torch.bool)
    queue = {f"queue/{side}.pooled": FOUND[f"in/queue_{side}"] for side in ("image", "text")}
    return queue | {
        "image.pooled": image,
        "text.pooled": text,
        # The authors' teacher sees the second view alone.
        "ema/image.pooled": teacher["image"][:, 0],
        "ema/image@second.tokens": teacher["image"][:, 1:],
        "ema/image@second.mask": everything,
        "ema/image@second.grid": torch.tensor([4, 4]),
        "ema/text.pooled": teacher["text"][:, 0],
        "ema/text.tokens": teacher["text"][:, 1:],
        "ema/text.mask": FOUND["in/mask"],
    }


def step():
    scale = torch.tensor(META["temp"], requires_grad=True)
    return scale, Context(scale=1 / scale, epoch=0)


@pytest.mark.parametrize(
    ("side", "settings"),
    [("image", {"pool": 2}), ("text", {"anchor": "text.pooled", "tokens": "ema/text.tokens"})],
)
def test_local_global(side, settings):
    features = offered()
    temperature, context = step()
    loss = TclLocalGlobal(**settings)(features, {}, context)["loss"]
    loss.backward()
    assert gap(loss, FOUND[f"out/lmi_{side}"]) < LOSS * 10
    assert relative(features[f"{side}.pooled"].grad, FOUND[f"grad/lmi_{side}"]) < GRADIENT
    assert relative(temperature.grad, FOUND[f"grad/lmi_{side}_temp"]) < GRADIENT


def one_way(side):
    arguments = {"source": f"{side}.pooled", "target": f"{side}.pooled", "symmetric": False}
    return {"class_path": "InfoNCE", "init_args": arguments | {"teacher": True, "queue": True, "weight": 1 / 6}}


def six_terms(alpha):
    """As a recipe has them."""
    momentum = {"class_path": "domainvl.objectives.targets.Momentum", "init_args": {"alpha": alpha}}
    both = {"teacher": True, "queue": True, "targets": [momentum], "weight": 1 / 3}
    words = {"anchor": "text.pooled", "tokens": "ema/text.tokens", "weight": 1 / 6}
    return {
        "itc": {"class_path": "InfoNCE", "init_args": both},
        "image": one_way("image"),
        "text": one_way("text"),
        "lmi_image": {"class_path": "TclLocalGlobal", "init_args": {"pool": 2, "weight": 1 / 6}},
        "lmi_text": {"class_path": "TclLocalGlobal", "init_args": words},
    }


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_six_terms_from_configuration(alpha):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--objectives", type=dict[str, Objective])
    objectives = parser.instantiate_classes(parser.parse_object({"objectives": six_terms(alpha)})).objectives
    features = offered()
    temperature, context = step()
    loss = sum(term.weight * term(features, {}, context)["loss"] for term in objectives.values())
    loss.backward()
    assert gap(loss, FOUND[f"out/ita_{alpha}"]) < LOSS * 10
    for side in ("image", "text"):
        assert relative(features[f"{side}.pooled"].grad, FOUND[f"grad/{side}_{alpha}"]) < GRADIENT
    assert relative(temperature.grad, FOUND[f"grad/temp_{alpha}"]) < GRADIENT
