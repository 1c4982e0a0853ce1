"""Random backbones of a few thousand weights, one per family of towers: add a row to TOYS."""

import re
import zlib
from dataclasses import replace

import torch
from torch import nn

from domainvl.backbones._loading import weights_digest
from domainvl.backbones.base import Backbone, BackboneSpec
from domainvl.data.preset import Preset
from domainvl.features import TextInputs
from domainvl.towers import Hlip, HlipModel, Inflated, Slices
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
        # Caches on disk tell models apart by it.
        self.weights = weights_digest(library)

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

    def places(self, texts, ids):
        found = []
        for text in texts:
            spans = [match.span() for match in re.finditer(r"\w+|[.,?]", text)]
            found.append([None] * self.start + spans + [None] * (ids.shape[1] - self.start - len(spans)))
        return found

    def spec(self):
        return BackboneSpec("Toy", "someone/toy", "0123456789abcdef", self.weights, self.preset.digest)


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


def hf_siglip():
    from transformers import SiglipConfig, SiglipModel

    from domainvl.towers.hf_siglip import HFSiglipImage, HFSiglipText

    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 3}
    ids = {"bos_token_id": START, "eos_token_id": END, "pad_token_id": PAD}
    text = {**shape, **ids, "vocab_size": END + 1, "max_position_embeddings": CONTEXT, "projection_size": 40}
    vision = {**shape, "hidden_size": 40, "num_hidden_layers": 4, "image_size": SIZE, "patch_size": 16}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    shaken(model)
    return Toy(model, HFSiglipImage(model), HFSiglipText(model), start=False, fixed=True)


def openclip():
    from open_clip.model import CLIP

    from domainvl.towers.openclip import open_clip_towers

    vision = {"image_size": SIZE, "patch_size": 16, "width": 40, "layers": 4, "head_width": 10}
    text = {"context_length": CONTEXT, "vocab_size": END + 1, "width": 32, "heads": 4, "layers": 3}
    model = CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text)
    shaken(model)
    return Toy(model, *open_clip_towers(model))


def timm_and_bert(name="vit", image="test_vit"):
    import timm
    from transformers import BertConfig, BertModel

    from domainvl.towers.hf_text import HFText
    from domainvl.towers.timm_vit import timm_tower

    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 3}
    trunk = timm.create_model(image, num_classes=0, **({"img_size": SIZE} if name == "vit" else {}))
    bert = BertModel(BertConfig(**shape, vocab_size=END + 1, max_position_embeddings=CONTEXT, pad_token_id=PAD))
    # Without affine statistics of its own a shaken batch norm could take the root of a negative number.
    shaken(bert)
    library = nn.ModuleDict({"image": trunk, "text": bert})
    library["image_projection"] = nn.Linear(trunk.num_features, 24)
    library["text_projection"] = nn.Linear(32, 24)
    return Toy(
        library,
        timm_tower(trunk, library["image_projection"], "image"),
        HFText(bert, "cls", library["text_projection"], "text"),
    )


class OfPictures:
    """Volumes for tests that know pictures `[B, 3, H, W]`: their colours are three slices."""

    def embed(self, inputs, words=None):
        return super().embed(inputs[:, None], words)


class InflatedPictures(OfPictures, Inflated):
    pass


class SlicedPictures(OfPictures, Slices):
    pass


def inflated():
    planar = openclip()
    return Toy(planar.model, InflatedPictures(planar.image, (3, SIZE, SIZE), 1), planar.text)


def slices():
    planar = hf_clip()
    return Toy(planar.model, SlicedPictures(planar.image), planar.text)


class HlipPictures(OfPictures, Hlip):
    pass


def hlip():
    planar = hf_clip()
    image = HlipModel(40, 4, 4, (1, 16, 16), (3, 2, 2))
    shaken(image)
    library = nn.ModuleDict({"image": image, "image_projection": nn.Linear(40, 24), "clip": planar.model})
    text = HFClipText(planar.model)
    text.lora_targets = lambda parts: [f"clip.{name}" for name in HFClipText.lora_targets(text, parts)]
    return Toy(library, HlipPictures(image, library["image_projection"], (1, 3), "image"), text)


def cnn():
    return timm_and_bert("cnn", "test_resnet")


TOYS = {
    "hf_clip": hf_clip,
    "hf_siglip": hf_siglip,
    "openclip": openclip,
    "timm_and_bert": timm_and_bert,
    "inflated": inflated,
    "slices": slices,
    "hlip": hlip,
}


def toy(name):
    torch.manual_seed(0)
    return {**TOYS, "cnn": cnn}[name]()


def pictures(count=5):
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def texts(adapter, backbone, classes=CLASSES, template="a photo of {}."):
    inputs = backbone.tokenize([adapter.prompt(template).replace("{}", name) for name in classes])
    number = torch.arange(len(classes))
    return replace(inputs, owner=number, negative=number == 0)


def class_features(backbone, classes=CLASSES):
    """What `prime` is given."""
    with torch.no_grad():
        rows = backbone.text(backbone.tokenize([f"a photo of {name}." for name in classes]))
    return nn.functional.normalize(rows, dim=-1)


def attached(adapter, backbone, classes=CLASSES):
    adapter.attach(backbone)
    adapter.prime(class_features(backbone, classes))
    if adapter.support_views:
        adapter.take_support(*support(adapter, backbone, classes))
    return adapter.eval()


def support(adapter, backbone, classes=CLASSES):
    """What `take_support` is given: two images of each class."""
    with torch.no_grad():
        once = adapter.see(backbone.image, pictures(2 * len(classes)))
    noise = 0.1 * torch.randn(adapter.support_views, *once.shape, generator=torch.Generator().manual_seed(4))
    return once + noise, torch.eye(len(classes)).repeat(2, 1)


def moved(adapter):
    """Away from a start that is zero in places, where gradients and differences vanish."""
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return adapter


def scores(adapter, backbone, classes=CLASSES, novel=False):
    features = adapter.encode("image", backbone.image, pictures())
    rows = texts(adapter, backbone, classes)
    if adapter.text_per_image:
        features["text.pooled"] = adapter.encode_per_image(backbone.text, rows, features["image.pooled"])
    else:
        features |= adapter.encode("text", backbone.text, rows)
    return features | adapter.logits(features, backbone.scale(), novel=novel)
