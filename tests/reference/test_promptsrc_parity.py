"""PromptSRC against figures recorded from the authors' code: one step, and the average of three epochs.

promptsrc-tiny.npz: muzairkhattak/PromptSRC at bb95c77, `CustomCLIP` and `forward_backward` of trainers/promptsrc.py
unmodified on CPU in fp32 (Dassl and the download of weights stubbed, `.cuda()` and `.half()` the identity) on
`clip_state_dict("tiny", 0)`, images and labels of mmrl-tiny.npz; 4 tokens and depth 3 on both sides, mean 2,
deviation 1, three epochs of one SGD step (0.05) each. Every trainable tensor was moved by .05 N(0, 1) first.
`frozen/text` is what their 60 templates give; `epochs/` are the learned vectors at the end of each epoch, `average/`
the last.
"""

import pytest
import torch
from golden import FEATURES, GRADIENT, LOGITS, LOSS, Golden, gap, inputs, record, relative
from torch.nn.functional import normalize

from domainvl.adapters import PromptSRC
from domainvl.adapters._scores import cosine_logits
from domainvl.features import TextInputs
from domainvl.objectives import ClassCrossEntropy, Context, FrozenKL, FrozenL1

LAYER = "{}_encoder.transformer.resblocks.{}.VPT_shallow"
NAMES = {"context": "prompt_learner.ctx", "image.0": "image_encoder.VPT"}
NAMES |= {f"image.{i}": LAYER.format("image", i) for i in (1, 2)}
NAMES |= {f"text.{i - 1}": LAYER.format("text", i) for i in (1, 2)}


def of(found, kind):
    return {ours: found[f"{kind}/{theirs}"] for ours, theirs in NAMES.items()}


def attached(backbone, found):
    adapter = PromptSRC(tokens=4, depth=3, init=None, mean=2.0, deviation=1.0)
    adapter.attach(backbone)
    adapter.load_tensors(of(found, "train"))
    return adapter


def test_a_step_is_the_authors():
    found, _ = record("promptsrc-tiny")
    images, labels, _ = inputs()
    backbone = Golden()
    adapter = attached(backbone, found)
    features = adapter.encode("image", backbone.image, images)
    features |= adapter.encode("text", backbone.text, TextInputs(found["in/tokens"].long()))
    features |= adapter.logits(features, backbone.scale())
    with torch.no_grad():
        features["frozen/image.pooled"] = backbone.image(images)
    features["frozen/text.pooled"] = found["frozen/text"]
    zero_shot = cosine_logits(features["frozen/image.pooled"], found["frozen/text"], backbone.scale())
    features["frozen/image.logits"] = zero_shot
    assert gap(normalize(features["frozen/image.pooled"], dim=-1), found["frozen/image"]) < FEATURES
    assert gap(zero_shot, found["frozen/logits"]) < LOGITS
    assert gap(normalize(features["image.pooled"], dim=-1), found["out/image"]) < FEATURES
    assert gap(normalize(features["text.pooled"], dim=-1), found["out/text"]) < FEATURES
    assert gap(features["image.logits"], found["out/logits"]) < LOGITS
    objectives = [ClassCrossEntropy(), FrozenL1("text", 25.0), FrozenL1("image", 10.0), FrozenKL()]
    context = Context(backbone.scale(), 0)
    loss = sum(o.weight * o(features, {"label": labels}, context)["loss"] for o in objectives)
    assert gap(loss, found["out/loss"]) < LOSS
    loss.backward()
    assert {name for name, _ in adapter.named_parameters()} == set(NAMES)
    gradients = of(found, "grad")
    for name, parameter in adapter.named_parameters():
        assert relative(parameter.grad, gradients[name]) < GRADIENT, name


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_average_is_the_authors_and_survives_a_restart(interrupted):
    found, _ = record("promptsrc-tiny")
    epochs, average = of(found, "epochs"), of(found, "average")
    adapter = attached(Golden(), found)
    for epoch in range(3):
        if interrupted and epoch == 2:
            state = adapter.state_dict()
            adapter = attached(Golden(), found)
            adapter.load_state_dict(state)
        with torch.no_grad():
            for name, parameter in adapter.named_parameters():
                parameter.copy_(epochs[name][epoch])
        adapter.epoch_ended(epoch, 3)
        if epoch < 2:
            assert all(torch.equal(p, epochs[name][epoch]) for name, p in adapter.named_parameters())
    for name, parameter in adapter.named_parameters():
        assert gap(parameter, average[name]) < 1e-6, name
    assert set(adapter.tensors()) == set(NAMES)


def test_a_mean_far_beyond_the_last_epoch_takes_the_last():
    adapter = PromptSRC(tokens=2, depth=1, init=None, mean=500.0, deviation=0.5)
    adapter.attach(Golden())
    for epoch in range(2):
        last = {name: p.detach().clone() for name, p in adapter.named_parameters()}
        adapter.epoch_ended(epoch, 2)
    for name, parameter in adapter.named_parameters():
        torch.testing.assert_close(parameter.detach(), last[name])
