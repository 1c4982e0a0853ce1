"""What a pretraining domain is: a set of facts, a way to draw them, and a way to put them into words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Facts = frozenset[str]


@dataclass(frozen=True)
class Caption:
    """A sentence, what it states to be there, and what it states not to be there.

    A caption may leave things out, so it can be true of many images; the loss counts every image it is true of as a
    match, which is why the facts travel with the words.
    """

    text: str
    present: Facts
    absent: Facts = frozenset()


@dataclass(frozen=True)
class Picture:
    """An image ``[S, S, 3]`` and, for facts that lie somewhere, where: a mask ``[S, S]`` each."""

    pixels: NDArray[np.uint8]
    marks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)


class World(Protocol):
    """One domain; every module of cartoons is one. ``MARKED`` are the facts that ``draw`` gives masks for."""

    NAME: str
    FACTS: tuple[str, ...]
    MARKED: tuple[str, ...]

    def imagine(self, rng: np.random.Generator) -> Facts:
        """Draws what is in one image."""

    def draw(self, rng: np.random.Generator, facts: Facts) -> Picture:
        """Draws the image."""

    def describe(self, rng: np.random.Generator, facts: Facts) -> Caption:
        """Puts some of the facts into words."""


def pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    """One of several phrasings."""
    return options[int(rng.integers(len(options)))]


def statement(
    rng: np.random.Generator,
    facts: Facts,
    *,
    intros: tuple[str, ...],
    names: Mapping[str, tuple[str, ...]],
    nothing: tuple[str, ...],
) -> Caption:
    """The wording that all domains share: one fact, one missing fact, or a list of both.

    Args:
        rng: Chance.
        facts: What the image holds.
        intros: Phrasings of "an image of this kind".
        names: Fact -> its phrasings; only these facts are ever named.
        nothing: Phrasings of "none of the named facts".
    """
    here = tuple(fact for fact in names if fact in facts)
    missing = tuple(fact for fact in names if fact not in facts)
    intro = pick(rng, ("", "a ", "an image: ")) + pick(rng, intros)
    end = pick(rng, ("", "."))
    kind = rng.random()
    if not here and kind < 0.4:
        return Caption(f"{intro} {pick(rng, nothing)}{end}", frozenset(), frozenset(names))
    if here and kind < 0.4:
        fact = pick(rng, here)
        verb = pick(rng, ("showing", "with", "of"))
        return Caption(f"{intro} {verb} {pick(rng, names[fact])}{end}", frozenset({fact}))
    if missing and kind < 0.65:
        fact = pick(rng, missing)
        verb = pick(rng, ("with no", "showing no", "without"))
        return Caption(f"{intro} {verb} {_bare(pick(rng, names[fact]))}{end}", frozenset(), frozenset({fact}))
    denied = [fact for fact in missing if rng.random() < 0.4]
    parts = [pick(rng, names[fact]) for fact in here] + [f"no {_bare(pick(rng, names[fact]))}" for fact in denied]
    listed = ", ".join(parts[i] for i in rng.permutation(len(parts)))
    return Caption(f"{intro}: {listed}{end}" if listed else intro + end, frozenset(here), frozenset(denied))


def _bare(name: str) -> str:
    return name.removeprefix("an ").removeprefix("a ")
