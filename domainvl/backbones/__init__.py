"""Pretrained vision-language models by source."""

from domainvl.backbones.base import Backbone, BackboneSpec
from domainvl.backbones.huggingface import HuggingFace
from domainvl.backbones.openclip import OpenClip
from domainvl.backbones.pair import Pair

__all__ = ["Backbone", "BackboneSpec", "HuggingFace", "OpenClip", "Pair"]
