"""Sentences about what a tile shows; every one of them is true of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_WORDS = {
    "forest": ("forest", "trees", "dense forest"),
    "annual crop land": ("ploughed fields", "annual crop land", "striped fields"),
    "pasture": ("pasture", "grassland", "green pasture"),
    "lake": ("a lake", "water of a lake", "a blue lake"),
    "residential buildings": ("residential buildings", "houses", "many small houses"),
    "industrial buildings": ("industrial buildings", "large roofs", "large white roofs"),
    "river": ("a river", "a stream", "a winding river"),
    "highway": ("a highway", "a road", "a straight road"),
}
_ONE = ("a satellite image of {0}.", "{0} seen from above.", "there is {0}.", "an aerial view of {0}.", "{0}.")
_TWO = (
    "a satellite image of {0} and {1}.",
    "{0} beside {1}.",
    "{1} next to {0}.",
    "an aerial view of {0} with {1}.",
    "there is {0}, and {1}.",
)


def sentences(rng: np.random.Generator, covers: Sequence[str], count: int = 5) -> list[str]:
    """Captions of a tile.

    Args:
        rng: Chance.
        covers: What it shows, the most of it first; two are named at most.
        count: How many.
    """
    frames = _ONE if len(covers) == 1 else _TWO
    found = []
    for number in range(count):
        words = [_WORDS[cover][int(rng.integers(3))] for cover in covers[:2]]
        text = frames[number % len(frames)].format(*words)
        found.append(text[0].upper() + text[1:])
    return found
