"""Encoders of several libraries behind one interface."""

from domainvl.towers.base import LORA_PARTS, Edit, Tower, Words
from domainvl.towers.convnet import TimmCNN
from domainvl.towers.ctvit import CTViT, CTViTModel
from domainvl.towers.hf_clip import HFClipImage, HFClipText
from domainvl.towers.hf_llm import HFLanguageModel
from domainvl.towers.hf_longformer import HFLongformer
from domainvl.towers.hf_siglip import HFSiglipImage, HFSiglipText
from domainvl.towers.hf_text import HFText
from domainvl.towers.hlip import Hlip, HlipModel
from domainvl.towers.inflate import Inflated
from domainvl.towers.latent_attention import LatentAttention
from domainvl.towers.merlin import MerlinCNN, MerlinModel
from domainvl.towers.monai_vit import MonaiViT
from domainvl.towers.openclip import OpenClipImage, OpenClipText, open_clip_towers
from domainvl.towers.slices import Slices
from domainvl.towers.timm_vit import TimmViT, timm_tower

__all__ = [
    "LORA_PARTS",
    "CTViT",
    "CTViTModel",
    "Edit",
    "HFClipImage",
    "HFClipText",
    "HFLanguageModel",
    "HFLongformer",
    "HFSiglipImage",
    "HFSiglipText",
    "HFText",
    "Hlip",
    "HlipModel",
    "Inflated",
    "LatentAttention",
    "MerlinCNN",
    "MerlinModel",
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
