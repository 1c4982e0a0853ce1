"""Pretrained vision-language models by source."""

from domainvl.backbones.base import Backbone, BackboneSpec
from domainvl.backbones.huggingface import HuggingFace

__all__ = ["Backbone", "BackboneSpec", "HuggingFace"]
