"""Encoders of several libraries behind one interface."""

from domainvl.towers.base import LORA_PARTS, Edit, Tower, Words

__all__ = ["LORA_PARTS", "Edit", "Tower", "Words"]
