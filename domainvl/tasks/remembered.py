"""What alignment need not compute again: reports in a text tower, and images in image blocks, that stay as they are."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from domainvl.adapters.base import Adapter
from domainvl.backbones.base import Backbone
from domainvl.features import FeatureKey
from domainvl.speed import Speed
from domainvl.tasks.image_pass import CachedPass, ImagePass
from domainvl.tasks.pairs import LOCAL
from domainvl.tasks.text_pass import TextPass, leaves_texts_alone


def remembered_texts(
    backbone: Backbone, adapter: Adapter, speed: Speed, wanted: Collection[str], setting: str
) -> TextPass | None:
    """What a text tower that stays as it is says, from disk; None where it does not stay.

    Args:
        backbone: The model.
        adapter: What is learned.
        speed: Says how much may be kept.
        wanted: Feature keys that somebody reads.
        setting: Whatever else changes the numbers (precision, device).
    """
    if not speed.cache or not leaves_texts_alone(adapter, backbone):
        return None
    keys = [FeatureKey.parse(key) for key in wanted]
    tokens = any(key.source == "text" and key.stream in LOCAL for key in keys)
    return TextPass(backbone, speed, tokens, setting)


def remembered_images(data: Any, backbone: Backbone, adapter: Adapter, speed: Speed, setting: str) -> CachedPass | None:
    """What the blocks in front of the first edited one say of training images, from disk; None where these change."""
    pictures = data.pictures() if speed.cache and hasattr(data, "pictures") else None
    if pictures is None:
        return None
    # Patches are read behind the last block.
    return CachedPass(ImagePass(backbone, adapter, replace(speed, unread=False)), pictures, False, setting)
