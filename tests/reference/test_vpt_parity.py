"""VPT, shallow and deep, against figures recorded from code of MaPLe's authors.

vpt-shallow-tiny.npz, vpt-deep-tiny.npz: muzairkhattak/multimodal-prompt-learning at 69bce21, `CustomCLIP` of
trainers/vpt.py unmodified on CPU in fp32 (Dassl's modules and the download of weights stubbed, `.cuda()` and `.half()`
the identity) on `clip_state_dict("tiny", 0)`, images and labels of mmrl-tiny.npz; 4 tokens, depth 1 and 3. Every
trainable tensor was moved by .05 N(0, 1) first.
"""

import pytest
import torch
from golden import FEATURES, GRADIENT, LOGITS, LOSS, Golden, gap, inputs, record, relative
from torch.nn.functional import normalize

from domainvl.adapters import VPT
from domainvl.features import TextInputs
from domainvl.objectives import ClassCrossEntropy, Context


def stacked(found, kind):
    """The authors keep one tensor per block."""
    names = [key for key in found if key.startswith(f"{kind}/image_encoder.transformer")]
    return torch.stack([found[f"{kind}/image_encoder.VPT"], *(found[name] for name in sorted(names))])


@pytest.mark.parametrize(("name", "depth"), [("vpt-shallow-tiny", 1), ("vpt-deep-tiny", 3)])
def test_a_step_is_the_authors(name, depth):
    found, _ = record(name)
    images, labels, _ = inputs()
    backbone = Golden()
    adapter = VPT(tokens=4, depth=depth)
    adapter.attach(backbone)
    adapter.load_tensors({"prompts": stacked(found, "train")})
    features = adapter.encode("image", backbone.image, images)
    features |= adapter.encode("text", backbone.text, TextInputs(found["in/tokens"].long()))
    features |= adapter.logits(features, backbone.scale())
    assert gap(normalize(features["image.pooled"], dim=-1), found["out/image"]) < FEATURES
    assert gap(features["image.logits"], found["out/logits"]) < LOGITS
    loss = ClassCrossEntropy()(features, {"label": labels}, Context(backbone.scale(), 0))["loss"]
    assert gap(loss, found["out/loss"]) < LOSS
    loss.backward()
    for ours, theirs in zip(adapter.prompts.grad, stacked(found, "grad"), strict=True):
        assert relative(ours, theirs) < GRADIENT
