"""Which methods `Compose` may put together, and why not."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from domainvl.adapters.base import Adapter, Side
from domainvl.adapters.clap import CLAP
from domainvl.adapters.probe import LinearProbe
from domainvl.adapters.sgva import SgVA
from domainvl.adapters.tip_adapter import TipAdapter
from domainvl.backbones.base import Backbone

_ONCE = {
    "prompt": "replace the words of a template",
    "words": "put tokens among the words",
    "readout": "make features",
    "locals": "make local features",
    "pool_tiles": "pool the tiles of slides",
    "logits": "make class scores",
    "encode_per_image": "make texts for every image",
    "choose": "choose values on the validation split",
    "export": "write files for other libraries",
}
_SIDED = ("readout", "locals")
_NEVER = ("encode", "finish", "prefix")


def overrides(part: Adapter, hook: str) -> bool:
    """Whether a method does something of its own in a hook."""
    return getattr(type(part), hook) is not getattr(Adapter, hook)


def overrides_on(part: Adapter, hook: str, side: Side) -> bool:
    """Whether a method does something of its own in `readout` or `locals` on one side."""
    return overrides(part, hook) and side in part.read_sides


def check_parts(adapters: Sequence[Adapter]) -> None:
    """Raise for parts that cannot work together on any backbone."""
    if len(adapters) < 2:
        raise ValueError(f"Compose: give two adapters or more, got {len(adapters)}")
    for part in adapters:
        if not isinstance(part, Adapter):
            raise TypeError(f"Compose: a part should be an adapter, got {part!r}")
        own = [hook for hook in _NEVER if overrides(part, hook)]
        if own:
            raise ValueError(f"Compose: {type(part).__name__} runs the towers itself ({own[0]}); it works alone only")
    for part, other in combinations(adapters, 2):
        names = f"{type(part).__name__} and {type(other).__name__}"
        if type(part) is type(other):
            raise ValueError(f"Compose: {type(part).__name__} is there twice; give it once")
        if part.support_views and other.support_views and (overrides(part, "see") or overrides(other, "see")):
            raise ValueError(f"Compose: {names} want to see different features of the training images")
        for hook, what in _ONCE.items():
            apart = hook in _SIDED and not set(part.read_sides) & set(other.read_sides)
            if overrides(part, hook) and overrides(other, hook) and not apart:
                raise ValueError(f"Compose: {names} both {what}; only one part may")


def check_pair(part: Adapter, other: Adapter, backbone: Backbone) -> None:
    """Raise where `part` makes no sense beside `other`."""
    names = type(part).__name__, type(other).__name__
    image = part.first_block("image", backbone.image) < backbone.image.depth or overrides_on(part, "readout", "image")
    text = part.first_block("text", backbone.text) < backbone.text.depth
    if isinstance(other, (LinearProbe, CLAP)) and text:
        raise ValueError(f"Compose: {names[0]} changes texts (LoRA's `sides` says which), {names[1]} reads none")
    if isinstance(other, (SgVA, TipAdapter)) and image:
        raise ValueError(
            f"Compose: {names[0]} changes image features, but {names[1]} compares them with cached features of the "
            "untouched model"
        )
    if other.text_per_image and text and overrides(part, "edit"):
        raise ValueError(
            f"Compose: {names[1]} makes texts per image, without the tokens that {names[0]} puts into them"
        )
