"""Satellite tile cartoons: land cover as flat colours and straight lines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretraining.drawing import COLUMNS, ROWS, SIDE, blob, colour_picture, speckle, stripes
from pretraining.worlds import Caption, Facts, Picture, pick, statement

NAME = "land"
_NAMES = {
    "forest": ("forest", "trees"),
    "crops": ("annual crop land", "ploughed fields"),
    "pasture": ("pasture", "grassland"),
    "river": ("a river", "a stream"),
    "lake": ("a lake", "sea water"),
    "highway": ("a highway", "a road"),
    "houses": ("residential buildings", "houses"),
    "factory": ("industrial buildings", "large roofs"),
}
FACTS = tuple(_NAMES)
MARKED: tuple[str, ...] = ()
_GROUNDS = ("forest", "crops", "pasture", "lake", "houses", "factory")
_INTROS = ("satellite image", "aerial view", "satellite tile")
_NOTHING = ("of bare land",)
_COLOURS = {
    "forest": (0.12, 0.30, 0.15),
    "crops": (0.60, 0.52, 0.33),
    "pasture": (0.48, 0.62, 0.32),
    "lake": (0.10, 0.22, 0.42),
    "houses": (0.50, 0.52, 0.46),
    "factory": (0.55, 0.53, 0.52),
}


def imagine(rng: np.random.Generator) -> Facts:
    """One ground, sometimes with a line across it."""
    facts = {pick(rng, _GROUNDS)}
    if rng.random() < 0.4:
        facts.add(pick(rng, ("river", "highway")))
    return frozenset(facts)


def describe(rng: np.random.Generator, facts: Facts) -> Caption:
    """States, denies or lists kinds of land."""
    return statement(rng, facts, intros=_INTROS, names=_NAMES, nothing=_NOTHING)


def draw(rng: np.random.Generator, facts: Facts) -> Picture:
    """Draws the ground, what stands on it, and the line across."""
    ground = next(fact for fact in _GROUNDS if fact in facts)
    image = np.broadcast_to(np.array(_COLOURS[ground], dtype=np.float32), (SIDE, SIDE, 3)).copy()
    image += rng.normal(0, 0.03, 3).astype(np.float32)
    if ground == "forest":
        image += (speckle(rng, 32)[..., None] - 0.5) * np.float32(0.15)
    if ground == "crops":
        image[stripes(rng, rng.uniform(0.03, 0.08), 0.5, rng.uniform(0, 3))] += np.float32(0.1)
        image[rng.uniform(0.3, 0.7) < COLUMNS] *= np.float32(0.8)
    if ground == "houses":
        _boxes(rng, image, count=40, size=0.03, colour=(0.75, 0.45, 0.38))
    if ground == "factory":
        _boxes(rng, image, count=6, size=0.11, colour=(0.9, 0.9, 0.92))
    slope, start = rng.uniform(-0.6, 0.6), rng.uniform(0.3, 0.7)
    if "river" in facts:
        bend = np.float32(0.12) * np.sin(COLUMNS * np.float32(rng.uniform(4, 9)))
        image[np.abs(ROWS - start - bend) < 0.05] = (0.15, 0.3, 0.5)
    if "highway" in facts:
        image[np.abs(ROWS - start - np.float32(slope) * (COLUMNS - 0.5)) < 0.03] = (0.72, 0.72, 0.72)
    return Picture(colour_picture(rng, image))


def _boxes(
    rng: np.random.Generator, image: NDArray[np.float32], *, count: int, size: float, colour: tuple[float, float, float]
) -> None:
    for x, y in rng.random((count, 2)):
        image[blob(x, y, size * rng.uniform(0.7, 1.4), size, 6)] = np.array(colour, dtype=np.float32)
