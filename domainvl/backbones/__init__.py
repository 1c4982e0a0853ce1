"""Pretrained vision-language models by source."""

from domainvl.backbones.base import Backbone, BackboneSpec
from domainvl.backbones.ctclip import CTCLIP
from domainvl.backbones.hlip import HLIP
from domainvl.backbones.huggingface import HuggingFace
from domainvl.backbones.merlin import Merlin
from domainvl.backbones.openclip import OpenClip
from domainvl.backbones.pair import Pair
from domainvl.backbones.volume import InflatedVolume, SliceVolume, VolumeBackbone

__all__ = [
    "CTCLIP",
    "HLIP",
    "Backbone",
    "BackboneSpec",
    "HuggingFace",
    "InflatedVolume",
    "Merlin",
    "OpenClip",
    "Pair",
    "SliceVolume",
    "VolumeBackbone",
]
