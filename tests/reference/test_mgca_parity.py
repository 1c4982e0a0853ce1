"""MGCA's three losses against figures recorded from the authors' code.

mgca.npz: HKU-MedAI/MGCA at 680fe4a, the forward of its module unmodified on CPU in fp32: five records of 9 patches and
up to 7 words, width 12, 20 prototypes. Encoders and heads were replaced by random features; attention maps are random.
Once as it runs with a ViT (weights for patches) and once with a CNN (none). Sinkhorn is the one that it always runs.
"""

import pytest
import torch
from golden import GRADIENT, LOSS, gap, record, relative

from domainvl.objectives import Context, InfoNCE, MgcaPrototype, MgcaToken

FOUND, _ = record("mgca")
CONTEXT = Context(scale=torch.tensor(1 / 0.07), epoch=1)


def pooled():
    return {f"{side}.pooled": FOUND[f"in/{side}"].clone().requires_grad_() for side in ("image", "text")}


@pytest.mark.parametrize("tower", ["vit", "res"])
def test_tokens_as_published(tower):
    features = {
        "image.tokens": FOUND["in/patches"].clone().requires_grad_(),
        "text.tokens": FOUND["in/words"].clone().requires_grad_(),
        "image.mask": torch.ones(5, 9, dtype=torch.bool),
        "text.mask": FOUND["in/mask"],
        "text.attention": FOUND["in/word_attention"],
    }
    if tower == "vit":
        features["image.attention"] = FOUND["in/patch_attention"]
    loss = MgcaToken(as_published=True)(features, {}, CONTEXT)["loss"]
    loss.backward()
    assert gap(loss, FOUND[f"out/local_{tower}"]) < LOSS
    assert relative(features["image.tokens"].grad, FOUND[f"grad/patches_{tower}"]) < GRADIENT
    assert relative(features["text.tokens"].grad, FOUND[f"grad/words_{tower}"]) < GRADIENT


def test_prototypes():
    objective, features = MgcaPrototype(prototypes=20), pooled()
    objective.attach({"image.pooled": 12, "text.pooled": 12})
    objective.prototypes.data.copy_(FOUND["in/prototypes"])
    loss = objective(features, {}, CONTEXT)["loss"]
    loss.backward()
    assert gap(loss, FOUND["out/prototype"]) < LOSS
    for side in ("image", "text"):
        assert relative(features[f"{side}.pooled"].grad, FOUND[f"grad/proto_{side}"]) < GRADIENT
    assert relative(objective.prototypes.grad, FOUND["grad/prototypes"]) < GRADIENT


def test_codes():
    objective = MgcaPrototype(prototypes=20)
    directions = torch.nn.functional.normalize(FOUND["in/prototypes"], dim=-1)
    scores = torch.nn.functional.normalize(FOUND["in/image"], dim=-1) @ directions.T
    assert gap(objective.codes(scores, CONTEXT), FOUND["out/codes"]) < 1e-5


def test_the_instance_term_is_twice_infonce():
    features = pooled()
    loss = 2 * InfoNCE()(features, {}, CONTEXT)["loss"]
    loss.backward()
    assert gap(loss, FOUND["out/instance"]) < LOSS * 10
    for side in ("image", "text"):
        assert relative(features[f"{side}.pooled"].grad, FOUND[f"grad/instance_{side}"]) < GRADIENT
