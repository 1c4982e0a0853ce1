"""Crane's prompts against figures recorded from the authors' code.

crane-square.npz: AlirezaSalehy/Crane at 39181f9, `PromptLearner`, `encode_image` and `encode_text_learn` unmodified on
CPU in fp32 (`.half()` the identity: their deep prompts go through half precision, values and gradients;
pkg_resources, humanhash and segment_anything stubbed), images of mmrl-tiny.npz. Their image feature joins the words, so
both sides are equally wide: `clip_state_dict(SQUARE, 0)`. 12 tokens, 4 deep ones, depth 3, pad_suffix, their attention
in the last two image blocks, which leaves the image feature alone; logits and loss are theirs of the whole image, at
temperature .01, without pooling by score. Trained numbers are `_draw("crane/" + name, shape, 0.05, 7)` of clip_weights.
`out/plain` are texts without an image. Text row 0 is normal, row 1 damaged.
"""

import pytest
import torch
from clip_weights import Arch, clip_state_dict, hf_model
from golden import FEATURES, GRADIENT, LOGITS, LOSS, Golden, gap, inputs, record, relative
from torch.nn.functional import normalize

from domainvl.adapters import Crane
from domainvl.features import TextInputs
from domainvl.objectives import ClassCrossEntropy, Context
from domainvl.towers.hf_clip import HFClipImage, HFClipText

SQUARE = Arch(embed=128, image=64, patch=16, v_layers=4, v_width=128, t_layers=4, t_width=128)
NAMES = {
    "normal": "ctx_pos",
    "damaged": "ctx_neg",
    "deep.0": "compound_prompts_text.0",
    "deep.1": "compound_prompts_text.1",
}
NEGATIVE = torch.tensor([True, False])


class Square(Golden):
    def __init__(self):
        super().__init__()
        self.model = hf_model(SQUARE, clip_state_dict(SQUARE, 0))
        self.image, self.text = HFClipImage(self.model), HFClipText(self.model)
        self.logit_scale = self.model.logit_scale
        self.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def made():
    found, meta = record("crane-square")
    backbone = Square()
    adapter = Crane(depth=3)
    adapter.attach(backbone)
    shapes = {name: tensor.shape for name, tensor in adapter.tensors().items()}
    adapter.load_tensors({name: found[f"train/{NAMES[name]}"].reshape(shape) for name, shape in shapes.items()})
    return found, meta, backbone, adapter


def test_a_step_is_the_authors(made):
    found, meta, backbone, adapter = made
    images, _, _ = inputs()
    texts = TextInputs(found["in/tokens"].long(), negative=NEGATIVE)
    features = adapter.encode("image", backbone.image, images)
    features["text.pooled"] = adapter.encode_per_image(backbone.text, texts, features["image.pooled"])
    features |= adapter.logits(features, backbone.scale())
    assert gap(normalize(features["image.pooled"], dim=-1), found["out/image"]) < FEATURES
    assert gap(normalize(features["text.pooled"], dim=-1), found["out/text"]) < FEATURES
    assert gap(features["image.logits"], found["out/logits"]) < LOGITS
    loss = ClassCrossEntropy()(features, {"label": found["in/labels"]}, Context(backbone.scale(), 0))["loss"]
    assert gap(loss, found["out/loss"]) < LOSS
    loss.backward()
    assert sum(p.numel() for p in adapter.parameters()) == meta["trainable"]
    for name, parameter in adapter.named_parameters():
        theirs = found[f"grad/{NAMES[name]}"].reshape(parameter.shape)
        assert relative(parameter.grad, theirs) < GRADIENT, name


def test_texts_without_an_image_are_the_authors(made):
    found, _, backbone, adapter = made
    texts = TextInputs(found["in/tokens"].long(), negative=NEGATIVE)
    with torch.no_grad():
        text = adapter.encode("text", backbone.text, texts)["text.pooled"]
    assert gap(normalize(text, dim=-1), found["out/plain"]) < FEATURES


def test_texts_that_say_neither_are_refused(made):
    found, _, backbone, adapter = made
    texts = TextInputs(found["in/tokens"].long())
    with pytest.raises(ValueError, match=r"Crane: .*multi-label"):
        adapter.encode_per_image(backbone.text, texts, torch.ones(1, 128))
