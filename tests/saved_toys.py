"""A saved adapter of the built-in model, and folders of pictures for it."""

import numpy as np
import torch
from PIL import Image

from domainvl import hub
from domainvl.adapters import MMRL
from domainvl.backbones import HuggingFace

CLASSES = ["effusion", "no finding", "pneumonia"]
PROMPTS = {"templates": ["a chest x-ray showing {}."], "negatives": ["a chest x-ray without {}."], "names": {}}


def saved(folder, multilabel=True, seed=0):
    torch.manual_seed(seed)
    backbone, adapter = HuggingFace("builtin:tiny"), MMRL(tokens=3, width=16)
    spec = backbone.spec()
    adapter.attach(backbone)
    adapter.prime(torch.eye(2 * len(CLASSES), backbone.text.out_dim))
    given = {"backbone": spec, "classes": CLASSES, "multilabel": multilabel, "prompts": PROMPTS, "recipe": "data: {}"}
    return hub.save_adapter(folder, adapter, **given)


def pictures(folder, count, bad=()):
    """JPEGs in two folders; those in `bad` hold no picture."""
    names = [f"{'ab'[number % 2]}/{number:03d}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(256, size=(6, 6, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((40, 32), Image.Resampling.BICUBIC).save(path)
        if number in bad:
            path.write_bytes(path.read_bytes()[:100])
    return sorted(names)
