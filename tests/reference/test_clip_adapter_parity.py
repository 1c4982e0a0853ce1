"""CLIP-Adapter against figures recorded from the authors' code: logits, loss and gradients of one step.

clip-adapter-tiny.npz: gaopengcuhk/CLIP-Adapter at 08d07f8, its CustomCLIP unmodified on CPU in fp32 (Dassl's modules
and moves to "cuda" stubbed, CoOp's `clip` package beside it) on `clip_state_dict("tiny", 0)` and the inputs of
mmrl-tiny.npz. Its `adapter` was replaced by its own `Adapter(64, 4)`, as the code writes down the width of another
model; both weights were moved by .1 N(0, 1) before the step.
"""

import pytest
import torch
from golden import GRADIENT, LOGITS, LOSS, Golden, gap, inputs, record, relative

from domainvl.adapters import CLIPAdapter
from domainvl.objectives import ClassCrossEntropy, Context

FOUND, META = record("clip-adapter-tiny")


def ours(name):
    return name.replace("adapter.fc.", "bottleneck.")


@pytest.fixture(scope="module")
def step():
    backbone = Golden()
    adapter = CLIPAdapter(META["ratio"], META["reduction"])
    adapter.attach(backbone)
    adapter.load_tensors({ours(k.removeprefix("train/")): v for k, v in FOUND.items() if k.startswith("train/")})
    images, labels, texts = inputs()
    features = adapter.encode("image", backbone.image, images) | adapter.encode("text", backbone.text, texts)
    features |= adapter.logits(features, backbone.scale())
    loss = ClassCrossEntropy()(features, {"label": labels}, Context(backbone.scale(), 0))["loss"]
    loss.backward()
    return adapter, features, loss


def test_logits(step):
    assert gap(step[1]["image.logits"], FOUND["out/logits"]) < LOGITS


def test_loss(step):
    assert gap(step[2], FOUND["out/loss"]) < LOSS


def test_gradients(step):
    grads = {name: parameter.grad for name, parameter in step[0].named_parameters()}
    recorded = {ours(k.removeprefix("grad/")): v for k, v in FOUND.items() if k.startswith("grad/")}
    assert set(grads) == set(recorded)
    assert max(relative(grads[name], g) for name, g in recorded.items()) < GRADIENT


def test_trains_as_many_numbers_as_the_authors(step):
    assert sum(p.numel() for p in step[0].parameters()) == META["trainable"]


def test_ratio_mixes(step):
    """Twice the ratio moves the feature twice as far."""
    backbone = Golden()
    images = inputs()[0]
    plain = backbone.image(images)
    moves = []
    for ratio in (0.2, 0.4):
        adapter = CLIPAdapter(ratio, META["reduction"])
        adapter.attach(backbone)
        adapter.load_tensors(step[0].tensors())
        moves.append(adapter.encode("image", backbone.image, images)["image.pooled"] - plain)
    torch.testing.assert_close(moves[1], 2 * moves[0], rtol=1e-4, atol=1e-5)
