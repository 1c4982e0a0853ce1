"""MaPLe against figures recorded from the authors' code.

maple-wide.npz: muzairkhattak/multimodal-prompt-learning at 69bce21, `CustomCLIP` of trainers/maple.py unmodified on CPU
in fp32 (Dassl and the download of weights stubbed, `.cuda()` and `.half()` the identity) on images and labels of
mmrl-tiny.npz; 2 tokens, depth 3. Their code knows widths 512 and 768 alone, so the model is `clip_state_dict(WIDE, 0)`.
Its 1,579,520 trained numbers are not stored: they are `_draw("maple/" + name, shape, 0.02, 7)` of clip_weights, and of
a gradient every n-th number is kept (`grad/`, n = size // 2000) with its norm (`gradnorm/`).

This is the second draw. The first, with 0.04, kept every bar but that of the loss: 1.3e-5 apart at a loss of 9.64. In
float64 the loss says that theirs is 1.2e-5 off in fp32 and ours 1.7e-6: rounding. At 0.02, what the authors start from,
it is 6.1e-6 and 3.2e-6 at a loss of 6.12.
"""

import pytest
import torch
from clip_weights import Arch, _draw, clip_state_dict, hf_model
from golden import FEATURES, GRADIENT, LOGITS, LOSS, Golden, gap, inputs, record, relative
from torch.nn.functional import normalize

from domainvl.adapters import MaPLe
from domainvl.features import TextInputs
from domainvl.objectives import ClassCrossEntropy, Context
from domainvl.towers.hf_clip import HFClipImage, HFClipText

WIDE = Arch(embed=64, image=64, patch=16, v_layers=4, v_width=768, t_layers=4, t_width=512)


class Wide(Golden):
    def __init__(self):
        super().__init__()
        self.model = hf_model(WIDE, clip_state_dict(WIDE, 0))
        self.image, self.text = HFClipImage(self.model), HFClipText(self.model)
        self.logit_scale = self.model.logit_scale
        self.requires_grad_(False).eval()


def theirs(name):
    """What the authors call one of our tensors."""
    if name == "context":
        return "prompt_learner.ctx"
    kind, index, *rest = name.split(".")
    if kind == "deep":
        return f"prompt_learner.compound_prompts_text.{index}"
    if index == "0":
        return f"prompt_learner.proj.{rest[0]}"
    return f"prompt_learner.compound_prompt_projections.{int(index) - 1}.{rest[0]}"


@pytest.fixture(scope="module")
def step():
    found, meta = record("maple-wide")
    images, labels, _ = inputs()
    backbone = Wide()
    adapter = MaPLe(tokens=2, depth=3, init=None)
    adapter.attach(backbone)
    shapes = meta["shapes"]
    names = {name: theirs(name) for name in adapter.tensors()}
    assert set(names.values()) == set(shapes)
    drawn = {name: _draw(f"maple/{their}", tuple(shapes[their]), 0.02, 7) for name, their in names.items()}
    adapter.load_tensors(drawn)
    features = adapter.encode("image", backbone.image, images)
    features |= adapter.encode("text", backbone.text, TextInputs(found["in/tokens"].long()))
    features |= adapter.logits(features, backbone.scale())
    loss = ClassCrossEntropy()(features, {"label": labels}, Context(backbone.scale(), 0))["loss"]
    loss.backward()
    return found, meta, adapter, features, loss


def test_a_step_is_the_authors(step):
    found, meta, adapter, features, loss = step
    assert gap(normalize(features["image.pooled"], dim=-1), found["out/image"]) < FEATURES
    assert gap(normalize(features["text.pooled"], dim=-1), found["out/text"]) < FEATURES
    assert gap(features["image.logits"], found["out/logits"]) < LOGITS
    assert gap(loss, found["out/loss"]) < LOSS
    assert sum(p.numel() for p in adapter.parameters()) == meta["trainable"]
    for name, parameter in adapter.named_parameters():
        grad, their = parameter.grad.flatten(), theirs(name)
        kept = grad[:: max(1, len(grad) // 2000)]
        assert relative(kept, found[f"grad/{their}"]) < GRADIENT, name
        assert relative(grad.norm(), found[f"gradnorm/{their}"]) < GRADIENT, name


def test_deeper_maps_start_alike_and_the_first_apart():
    torch.manual_seed(0)
    adapter = MaPLe(tokens=2, init=None)
    adapter.attach(Golden())
    # Three quarters of four blocks.
    assert len(adapter.maps) == 3
    assert torch.equal(adapter.maps[1].weight, adapter.maps[2].weight)
    assert not torch.equal(adapter.maps[0].weight, adapter.maps[1].weight)
