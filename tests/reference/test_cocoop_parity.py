"""CoCoOp against figures recorded from the authors' code.

cocoop-tiny.npz: KaiyangZhou/CoOp at ff61507, `CustomCLIP` of trainers/cocoop.py unmodified on CPU in fp32 (Dassl and
the download of weights stubbed, `.cuda()`, `.half()` the identity) on `clip_state_dict("tiny", 0)`, images and labels
of mmrl-tiny.npz, all four in one batch; 4 tokens, every trainable tensor moved by .05 N(0, 1) first. `out/text` are the
texts of every image.
"""

import torch
from golden import FEATURES, GRADIENT, LOGITS, LOSS, Golden, gap, inputs, record, relative
from torch.nn.functional import normalize

from domainvl.adapters import CoCoOp
from domainvl.features import TextInputs
from domainvl.objectives import ClassCrossEntropy, Context

NAMES = {
    "context": "prompt_learner.ctx",
    "net.0.weight": "prompt_learner.meta_net.linear1.weight",
    "net.0.bias": "prompt_learner.meta_net.linear1.bias",
    "net.2.weight": "prompt_learner.meta_net.linear2.weight",
    "net.2.bias": "prompt_learner.meta_net.linear2.bias",
}


def test_a_step_is_the_authors():
    found, _ = record("cocoop-tiny")
    images, labels, _ = inputs()
    backbone = Golden()
    adapter = CoCoOp(tokens=4, init=None)
    adapter.attach(backbone)
    adapter.load_tensors({ours: found[f"train/{theirs}"] for ours, theirs in NAMES.items()})
    features = adapter.encode("image", backbone.image, images)
    texts = TextInputs(found["in/tokens"].long())
    features["text.pooled"] = adapter.encode_per_image(backbone.text, texts, features["image.pooled"])
    features |= adapter.logits(features, backbone.scale())
    assert gap(normalize(features["image.pooled"], dim=-1), found["out/image"]) < FEATURES
    assert gap(normalize(features["text.pooled"], dim=-1), found["out/text"]) < FEATURES
    assert gap(features["image.logits"], found["out/logits"]) < LOGITS
    loss = ClassCrossEntropy()(features, {"label": labels}, Context(backbone.scale(), 0))["loss"]
    assert gap(loss, found["out/loss"]) < LOSS
    loss.backward()
    assert {name for name, _ in adapter.named_parameters()} == set(NAMES)
    for name, parameter in adapter.named_parameters():
        assert relative(parameter.grad, found[f"grad/{NAMES[name]}"]) < GRADIENT, name


def test_padded_texts_are_the_same_texts():
    """The mask travels with the rows of every image."""
    found, _ = record("cocoop-tiny")
    images, _, _ = inputs()
    backbone = Golden()
    torch.manual_seed(0)
    adapter = CoCoOp(tokens=4, init=None)
    adapter.attach(backbone)
    ids = found["in/tokens"].long()
    image = backbone.image(images)
    plain = adapter.encode_per_image(backbone.text, TextInputs(ids), image)
    masked = adapter.encode_per_image(backbone.text, TextInputs(ids, ids != 0), image)
    torch.testing.assert_close(plain, masked, rtol=0, atol=1e-6)
