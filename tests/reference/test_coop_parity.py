"""CoOp and KgCoOp against figures recorded from the authors' code.

coop-*.npz: KaiyangZhou/CoOp at ff61507, `CustomCLIP` of trainers/coop.py, unmodified; kgcoop-tiny.npz: htyao89/KgCoOp
at c43ccc3, `CustomCLIP` and `forward_backward` of trainers/kgcoop.py, unmodified. On CPU in fp32 (Dassl and the
download of weights stubbed, `.cuda()` and `.half()` the identity) on `clip_state_dict("tiny", 0)`, images and labels of
mmrl-tiny.npz, five classes; 4 tokens, moved by .05 N(0, 1) first. `in/tokens` are the class names with a full stop,
`in/frozen_tokens` the prompts of the frozen side.
"""

import pytest
import torch
from golden import FEATURES, GRADIENT, LOGITS, LOSS, Golden, gap, inputs, record, relative
from torch.nn.functional import normalize

from domainvl.adapters import CoOp
from domainvl.features import TextInputs
from domainvl.objectives import ClassCrossEntropy, Context, FrozenCosine

STOP, WORDS = 269, [320, 1125, 539, 320]
"""Ids of "." and of "a photo of a" in CLIP's vocabulary."""


class Spelled(Golden):
    """A tokenizer that knows what an adapter asks for."""

    def tokenize(self, texts):
        known = {"": [], ".": [STOP], "a photo of a": WORDS}
        ids = torch.full((len(texts), 8), 49407)
        for row, text in enumerate(texts):
            ids[row, : len(known[text]) + 1] = torch.tensor([49406, *known[text]])
        return TextInputs(ids)


VARIANTS = {
    "coop": {},
    "coop-csc": {"class_specific": True},
    "coop-middle": {"position": "middle"},
    "coop-front": {"position": "front"},
    "coop-cscmiddle": {"class_specific": True, "position": "middle"},
    "coop-init": {"init": "a photo of a"},
    "kgcoop": {"init": "a photo of a"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_step_is_the_authors(name):
    found, _ = record(f"{name}-tiny")
    images, labels, _ = inputs()
    backbone = Spelled()
    adapter = CoOp(tokens=4, **VARIANTS[name])
    adapter.attach(backbone)
    adapter.prime(torch.zeros(5, 64))
    if "init/ctx" in found:
        assert torch.equal(adapter.context, found["init/ctx"])
    adapter.load_tensors({"context": found["train/prompt_learner.ctx"]})
    texts = TextInputs(found["in/tokens"].long(), owner=torch.arange(5))
    features = adapter.encode("image", backbone.image, images)
    features |= adapter.encode("text", backbone.text, texts)
    features |= adapter.logits(features, backbone.scale())
    assert gap(normalize(features["image.pooled"], dim=-1), found["out/image"]) < FEATURES
    assert gap(normalize(features["text.pooled"], dim=-1), found["out/text"]) < FEATURES
    assert gap(features["image.logits"], found["out/logits"]) < LOGITS
    objectives = [ClassCrossEntropy()]
    if name == "kgcoop":
        with torch.no_grad():
            features["frozen/text.pooled"] = backbone.text(TextInputs(found["in/frozen_tokens"].long()))
        assert gap(normalize(features["frozen/text.pooled"], dim=-1), found["frozen/text"]) < FEATURES
        objectives.append(FrozenCosine(source="text", weight=8.0))
    context = Context(backbone.scale(), 0)
    loss = sum(o.weight * o(features, {"label": labels}, context)["loss"] for o in objectives)
    assert gap(loss, found["out/loss"]) < LOSS
    loss.backward()
    assert relative(adapter.context.grad, found["grad/prompt_learner.ctx"]) < GRADIENT
