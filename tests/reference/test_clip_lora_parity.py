"""CLIP-LoRA against figures recorded from the authors' code: features, logits, loss and gradients of one step.

clip-lora-tiny.npz: MaxZanella/CLIP-LoRA at 358f0d7, its build_model, apply_lora and mark_only_lora_as_trainable
unmodified on CPU in fp32 on `clip_state_dict("tiny", 0)` and the inputs of mmrl-tiny.npz: both encoders, all blocks, q,
k and v, r = 2, alpha = 1, dropout .25. The step is that of run_lora written out, which itself insists on CUDA's
autocast. Factors were moved by .02 N(0, 1). So that what is dropped shows without random numbers, `nn.Dropout` was the
identity in `plain` and one fixed mask over the 128 channels in `dropped`.

Their code without dropout takes another path, whose gradients are wrong below the last block (relative error 2e-3 to
1e-2 on these weights): it writes W + s B A into the layer, and W back before the backward pass reads it.
"""

import pytest
import torch
from golden import FEATURES, GRADIENT, LOGITS, LOSS, Golden, gap, inputs, record, relative
from torch.nn.functional import normalize

from domainvl.adapters import LoRA
from domainvl.objectives import ClassCrossEntropy, Context

FOUND, META = record("clip-lora-tiny")
MASKS = {"plain": torch.ones(128), "dropped": FOUND["in/mask"]}


def ours(name):
    """The authors' name of a factor as we call it."""
    tower, rest = name.split("transformer.resblocks.")
    block, _, layer, factor = rest.split(".")
    side = "vision_model" if tower else "text_model"
    return f"factors.{side}/encoder/layers/{block}/self_attn/{layer}.{factor[-1]}.weight"


@pytest.fixture(scope="module", params=list(MASKS))
def step(request):
    """One training step: adapter, features, loss, and which recorded run it is."""
    backbone = Golden()
    adapter = LoRA(rank=META["rank"], alpha=META["alpha"], dropout=0.25)
    adapter.attach(backbone)
    adapter.load_tensors({ours(k.removeprefix("train/")): v for k, v in FOUND.items() if k.startswith("train/")})
    adapter.train()
    images, labels, texts = inputs()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Dropout, "forward", lambda self, x: x * MASKS[request.param])
        features = adapter.encode("image", backbone.image, images) | adapter.encode("text", backbone.text, texts)
        features |= adapter.logits(features, backbone.scale())
        loss = ClassCrossEntropy()(features, {"label": labels}, Context(backbone.scale(), 0))["loss"]
        loss.backward()
    return adapter, features, loss, request.param


@pytest.mark.parametrize(("key", "name"), [("image.pooled", "image_features"), ("text.pooled", "text_features")])
def test_features(step, key, name):
    assert gap(normalize(step[1][key], dim=-1), FOUND[f"{step[3]}/{name}"]) < FEATURES


def test_logits(step):
    assert gap(step[1]["image.logits"], FOUND[f"{step[3]}/logits"]) < LOGITS


def test_loss(step):
    assert gap(step[2], FOUND[f"{step[3]}/loss"]) < LOSS


def test_gradients(step):
    prefix = f"{step[3]}/grad/"
    grads = {name: parameter.grad for name, parameter in step[0].named_parameters()}
    recorded = {ours(k.removeprefix(prefix)): v for k, v in FOUND.items() if k.startswith(prefix)}
    assert set(grads) == set(recorded)
    distances = {name: relative(grads[name], g) for name, g in recorded.items()}
    assert max(distances.values()) < GRADIENT, distances


def test_dropout_matters():
    assert gap(FOUND["plain/logits"], FOUND["dropped/logits"]) > 10 * LOGITS


def test_start_is_that_of_the_authors():
    torch.manual_seed(0)
    adapter = LoRA(rank=META["rank"])
    adapter.attach(Golden())
    first = torch.cat([f["A"].weight.detach().flatten() for f in adapter.factors.values()])
    assert float(first.std()) == pytest.approx(META["start"]["A_std"], rel=0.03)
    assert float(first.abs().max()) == pytest.approx(META["start"]["A_max"], rel=0.01)
    assert META["start"]["B_max"] == 0
    assert not any(f["B"].weight.any() for f in adapter.factors.values())
    assert sum(p.numel() for p in adapter.parameters()) == META["trainable"]
