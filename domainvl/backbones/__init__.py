"""Pretrained vision-language models by source."""

from domainvl.backbones.base import Backbone, BackboneSpec

__all__ = ["Backbone", "BackboneSpec"]
