"""ALIP against figures recorded from the authors' code.

alip.npz: deepglint/ALIP at c507915, the lines of its train.py that make the weights and its Adaptive_loss, unmodified
on CPU in fp32, one process: three steps of eight records of width 12 at scale 14. The first two raw texts are broken.
Before the third step the running means were set to values among the cosines, so that some records keep a weight of 1.
"""

import pytest
import torch
from golden import GRADIENT, LOSS, gap, record, relative

from domainvl.objectives import Alip, Context

FOUND, META = record("alip")
KEYS = {"image": "image.pooled", "text": "text.pooled", "caption": "text@caption.pooled"}


def as_published():
    return Alip(gate_caption=True, start=1.0)


def features(step):
    return {key: FOUND[f"in/{name}{step}"].clone().requires_grad_() for name, key in KEYS.items()}


def test_three_steps():
    objective = as_published()
    for step in range(3):
        if step == 2:
            objective.means.copy_(torch.tensor([0.4, 0.4, 0.5]))
        scale = torch.tensor(META["scale"], requires_grad=True)
        given = features(step)
        done = objective(given, {}, Context(scale=scale, epoch=0))
        done["loss"].backward()
        assert gap(done["text"], FOUND[f"out/raw{step}"]) < LOSS
        assert gap(done["caption"], FOUND[f"out/captions{step}"]) < LOSS
        assert gap(objective.means, FOUND[f"out/means{step}"]) < 1e-6
        for name, key in KEYS.items():
            assert relative(given[key].grad, FOUND[f"grad/{name}{step}"]) < GRADIENT, (step, name)
        assert relative(scale.grad, FOUND[f"grad/scale{step}"]) < GRADIENT


@pytest.mark.parametrize(("index", "name"), enumerate(["sample", "raw", "caption"]))
def test_weights(index, name):
    objective = as_published()
    objective.means.copy_(torch.tensor([0.4, 0.4, 0.5]))
    gates = objective.gates(*features(2).values(), Context(scale=torch.tensor(1.0), epoch=0))
    assert gap(gates[index], FOUND[f"out/weight_{name}2"]) < 1e-6
