"""BiomedCoOp (CoOp with SCCM and KDSP) against figures recorded from the authors' code.

biomedcoop-tiny.npz: HealthX-Lab/BiomedCoOp at 7ceb5a8, `CustomCLIP` of trainers/BiomedCoOp/biomedcoop_clip.py
unmodified on CPU in fp32 (Dassl and the download of weights stubbed, `.cuda()` and `.half()` the identity) on
`clip_state_dict("tiny", 0)`, images and labels of mmrl-tiny.npz; 4 tokens, moved by .05 N(0, 1) first; weights 5 and
.75, tau 1.5. The bank, `in/bank` [5, 20, L], are sentences that we made up, put in the place of theirs. Their file for
CLIP was run; the one for BiomedCLIP, which has the same losses, needs their changed copy of open_clip.
"""

import torch
from golden import FEATURES, GRADIENT, LOGITS, LOSS, Golden, gap, inputs, record, relative
from torch.nn.functional import normalize

from domainvl.adapters import CoOp
from domainvl.features import TextInputs
from domainvl.objectives import KDSP, SCCM, ClassCrossEntropy, Context


class Spelled(Golden):
    def tokenize(self, texts):
        """All that CoOp asks for is a full stop."""
        return TextInputs(torch.tensor([[49406, 49407, 49407], [49406, 269, 49407]]))


def test_a_step_is_the_authors():
    found, _ = record("biomedcoop-tiny")
    images, labels, _ = inputs()
    backbone = Spelled()
    adapter = CoOp(tokens=4)
    adapter.attach(backbone)
    adapter.load_tensors({"context": found["train/prompt_learner.ctx"]})
    features = adapter.encode("image", backbone.image, images)
    features |= adapter.encode("text", backbone.text, TextInputs(found["in/tokens"].long()))
    features |= adapter.logits(features, backbone.scale())
    features["frozen/image.pooled"] = features["image.pooled"].detach()
    with torch.no_grad():
        bank = found["in/bank"].long()
        rows = backbone.text(TextInputs(bank.flatten(0, 1)))
    features["frozen/text@bank.tokens"] = rows.unflatten(0, bank.shape[:2])
    assert gap(normalize(features["image.pooled"], dim=-1), found["out/image"]) < FEATURES
    assert gap(normalize(features["text.pooled"], dim=-1), found["out/text"]) < FEATURES
    assert gap(features["image.logits"], found["out/logits"]) < LOGITS
    objectives = {"ce": ClassCrossEntropy(), "sccm": SCCM(5.0), "kdsp": KDSP(1.5, weight=0.75)}
    context, losses = Context(backbone.scale(), 0), {}
    for name, objective in objectives.items():
        done = objective(features, {"label": labels}, context)
        losses[name] = objective.weight * done["loss"]
        assert gap(losses[name], found[f"out/{name}"]) < LOSS, name
        if name == "kdsp":
            assert 0 < int(done["kept"]) < bank.shape[1]
    loss = sum(losses.values())
    assert gap(loss, found["out/loss"]) < LOSS
    loss.backward()
    assert relative(adapter.context.grad, found["grad/prompt_learner.ctx"]) < GRADIENT
