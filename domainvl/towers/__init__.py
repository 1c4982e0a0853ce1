"""Encoders of several libraries behind one interface."""

from domainvl.towers.base import LORA_PARTS, Edit, Tower, Words
from domainvl.towers.hf_clip import HFClipImage, HFClipText

__all__ = ["LORA_PARTS", "Edit", "HFClipImage", "HFClipText", "Tower", "Words"]
