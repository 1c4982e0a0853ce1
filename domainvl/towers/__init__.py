"""Encoders of several libraries behind one interface."""

from domainvl.towers.base import LORA_PARTS, Edit, Tower, Words
from domainvl.towers.convnet import TimmCNN
from domainvl.towers.hf_clip import HFClipImage, HFClipText
from domainvl.towers.hf_siglip import HFSiglipImage, HFSiglipText
from domainvl.towers.hf_text import HFText
from domainvl.towers.inflate import Inflated
from domainvl.towers.monai_vit import MonaiViT
from domainvl.towers.openclip import OpenClipImage, OpenClipText, open_clip_towers
from domainvl.towers.slices import Slices
from domainvl.towers.timm_vit import TimmViT, timm_tower

__all__ = [
    "LORA_PARTS",
    "Edit",
    "HFClipImage",
    "HFClipText",
    "HFSiglipImage",
    "HFSiglipText",
    "HFText",
    "Inflated",
    "MonaiViT",
    "OpenClipImage",
    "OpenClipText",
    "Slices",
    "TimmCNN",
    "TimmViT",
    "Tower",
    "Words",
    "open_clip_towers",
    "timm_tower",
]
