"""What the parity tests share: the tiny random CLIP as a backbone, recorded figures, distances."""

import json
from pathlib import Path

import numpy as np
import torch
from clip_weights import clip_state_dict, hf_model

from domainvl.backbones.base import Backbone, BackboneSpec
from domainvl.data.preset import Preset
from domainvl.features import TextInputs
from domainvl.towers.hf_clip import HFClipImage, HFClipText

FOLDER = Path(__file__).parent
# The bars of the comparison: features, logits on the 100-scale, loss, relative L2 of a gradient.
FEATURES, LOGITS, LOSS, GRADIENT = 1e-5, 1e-4, 1e-5, 1e-4


class Golden(Backbone):
    """`clip_state_dict("tiny", 0)` as transformers holds it, frozen."""

    def __init__(self):
        super().__init__()
        self.model = hf_model("tiny", clip_state_dict("tiny", 0))
        self.image, self.text = HFClipImage(self.model), HFClipText(self.model)
        self.logit_scale, self.logit_bias = self.model.logit_scale, None
        self.preset = Preset(name="golden", size=64)
        self.requires_grad_(False).eval()

    @property
    def library(self):
        return self.model

    def tokenize(self, texts):
        raise NotImplementedError("parity tests bring their own tokens")

    def spec(self):
        return BackboneSpec("Golden", "tiny", None, "0" * 12, self.preset.digest)


def record(name):
    """The tensors and the settings of a recorded run."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        found = {key: torch.from_numpy(file[key]) for key in file.files if key != "meta"}
        return found, json.loads(str(file["meta"]))


def inputs():
    """Images `[4, 3, 64, 64]`, labels `[4]` and the prompts of five EuroSAT classes that all recorded runs share."""
    found, _ = record("mmrl-tiny")
    return found["in/images"], found["in/labels"], TextInputs(found["in/tokens"])


def gap(ours, theirs):
    """Largest absolute difference."""
    return float((ours.detach() - theirs).abs().max())


def relative(ours, theirs):
    """Relative L2 distance."""
    return float((ours - theirs).norm() / theirs.norm())
