"""Random backbones of a few thousand weights, one per family of towers: add a row to TOYS."""

import re
import zlib

import torch
from torch import nn

from domainvl.backbones.base import Backbone, BackboneSpec
from domainvl.data.preset import Preset
from domainvl.features import TextInputs
from domainvl.tokens import TokenState
from domainvl.towers.base import Tower
from domainvl.towers.hf_clip import HFClipImage, HFClipText

WORDS, PAD, START, END = 60, 60, 61, 62
SIZE, CONTEXT = 32, 24
PRESET = Preset(name="toy", size=SIZE)
CLASSES = ["healthy lung", "pneumonia", "a large pleural effusion"]


class Toy(Backbone):
    def __init__(self, library, image, text, *, start=True, fixed=False):
        super().__init__()
        self.model, self.image, self.text = library, image, text
        self.logit_scale, self.logit_bias = nn.Parameter(torch.tensor(2.0)), None
        self.preset = PRESET
        self.start, self.fixed = start, fixed
        self.requires_grad_(False).eval()

    @property
    def library(self):
        return self.model

    def tokenize(self, texts):
        rows = []
        for text in texts:
            ids = [zlib.crc32(word.encode()) % WORDS for word in re.findall(r"\w+|[.,?]", text)]
            rows.append(([START] if self.start else []) + ids + [END])
        length = CONTEXT if self.fixed else max(map(len, rows))
        ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows])
        keep = torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in rows])
        return TextInputs(ids, None if self.fixed else keep)

    def spec(self):
        return BackboneSpec("Toy", "someone/toy", "0123456789abcdef", "aaaaaaaaaaaa", self.preset.digest)


def hf_clip():
    from transformers import CLIPConfig, CLIPModel

    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 3}
    ids = {"bos_token_id": START, "eos_token_id": END, "pad_token_id": PAD}
    text = {**shape, **ids, "vocab_size": END + 1, "max_position_embeddings": CONTEXT}
    # Another depth and width than the text tower, so that mixing them up is an error.
    vision = {**shape, "hidden_size": 40, "num_hidden_layers": 4, "image_size": SIZE, "patch_size": 16}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
    shaken(model)
    return Toy(model, HFClipImage(model), HFClipText(model))


def shaken(model):
    """Larger random weights: a fresh model is so close to linear that mistakes hide."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


class Convolution(Tower):
    width, depth, out_dim, token_editing = 24, 1, 24, False

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 24, 16, 16)

    def embed(self, inputs, words=None):
        return TokenState(self.convolution(inputs).flatten(2).mT)

    def block(self, index, state):
        return state.step(state.tokens.tanh())

    def norm(self, tokens):
        return tokens

    def pool(self, state):
        return state.tokens.mean(1)

    def project(self, pooled):
        return pooled

    def lora_targets(self, parts):
        raise TypeError("Convolution has no attention")


def cnn():
    toy = hf_clip()
    toy.image = Convolution().requires_grad_(False)
    return toy


TOYS = {"hf_clip": hf_clip}


def toy(name):
    torch.manual_seed(0)
    return {**TOYS, "cnn": cnn}[name]()


def pictures(count=5):
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def texts(adapter, backbone, classes=CLASSES, template="a photo of {}."):
    return backbone.tokenize([adapter.prompt(template).replace("{}", name) for name in classes])


def class_features(backbone, classes=CLASSES):
    """What `prime` is given."""
    with torch.no_grad():
        rows = backbone.text(backbone.tokenize([f"a photo of {name}." for name in classes]))
    return nn.functional.normalize(rows, dim=-1)


def attached(adapter, backbone, classes=CLASSES):
    adapter.attach(backbone)
    adapter.prime(class_features(backbone, classes))
    return adapter.eval()


def moved(adapter):
    """Away from a start that is zero in places, where gradients and differences vanish."""
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return adapter


def scores(adapter, backbone, classes=CLASSES, novel=False):
    features = adapter.encode("image", backbone.image, pictures())
    features |= adapter.encode("text", backbone.text, texts(adapter, backbone, classes))
    return features | adapter.logits(features, backbone.scale(), novel=novel)
