"""Histology patch cartoons: stained tissue as coloured discs and bars."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretraining.drawing import COLUMNS, ROWS, SIDE, blob, colour_picture, rim, speckle
from pretraining.worlds import Caption, Facts, Picture, pick, statement

NAME = "tissue"
_NAMES = {
    "tumor": ("tumor", "cancer", "crowded dark nuclei"),
    "lymphocytes": ("lymphocytes", "many small round nuclei"),
    "stroma": ("stroma", "pink fibres"),
    "fat": ("adipose tissue", "fat cells"),
    "glands": ("glands", "normal mucosa"),
    "necrosis": ("necrosis", "dead debris"),
}
FACTS = tuple(_NAMES)
MARKED: tuple[str, ...] = ()
_INTROS = ("histology patch", "h&e image of tissue", "microscope image")
_NOTHING = ("with nothing to see",)
_PURPLE = np.array([0.35, 0.2, 0.5], dtype=np.float32)


def imagine(rng: np.random.Generator) -> Facts:
    """One kind of tissue, sometimes with immune cells in it."""
    facts = {pick(rng, FACTS)}
    if rng.random() < 0.2:
        facts.add("lymphocytes")
    return frozenset(facts)


def describe(rng: np.random.Generator, facts: Facts) -> Caption:
    """States, denies or lists kinds of tissue."""
    return statement(rng, facts, intros=_INTROS, names=_NAMES, nothing=_NOTHING)


def draw(rng: np.random.Generator, facts: Facts) -> Picture:
    """Draws the ground first and the nuclei on top."""
    pink = np.array([0.9, 0.65, 0.78], dtype=np.float32) + rng.normal(0, 0.04, 3).astype(np.float32)
    image = np.broadcast_to(pink, (SIDE, SIDE, 3)).copy()
    if "stroma" in facts:
        wave = np.sin((ROWS * rng.uniform(20, 40) + 2 * np.sin(COLUMNS * rng.uniform(4, 9))).astype(np.float32))
        image[wave > 0.3] -= np.array([0.05, 0.2, 0.1], dtype=np.float32)
    if "fat" in facts:
        for _ in range(9):
            x, y = rng.random(2)
            radius = rng.uniform(0.1, 0.18)
            image[blob(x, y, radius, radius)] = 0.96
    if "glands" in facts:
        for _ in range(int(rng.integers(2, 4))):
            x, y = rng.uniform(0.2, 0.8, 2)
            ring = blob(x, y, 0.2, 0.2)
            image[ring] = 0.93
            image[rim(ring, 5)] = _PURPLE + np.float32(0.12)
    if "necrosis" in facts:
        grain = speckle(rng, 48)
        image[grain > 0.6] -= np.array([0.15, 0.25, 0.15], dtype=np.float32)
    if "tumor" in facts:
        _nuclei(rng, image, count=int(rng.integers(35, 55)), low=0.035, high=0.06)
    if "lymphocytes" in facts:
        _nuclei(rng, image, count=int(rng.integers(45, 80)), low=0.016, high=0.022)
    return Picture(colour_picture(rng, image))


def _nuclei(rng: np.random.Generator, image: NDArray[np.float32], *, count: int, low: float, high: float) -> None:
    for _ in range(count):
        x, y = rng.random(2)
        radius = rng.uniform(low, high)
        reach = int(radius * 1.5 * SIDE) + 2
        rows = slice(max(int(y * SIDE) - reach, 0), int(y * SIDE) + reach)
        columns = slice(max(int(x * SIDE) - reach, 0), int(x * SIDE) + reach)
        near = np.hypot(COLUMNS[rows, columns] - x, (ROWS[rows, columns] - y) * rng.uniform(0.8, 1.3)) < radius
        image[rows, columns][near] = _PURPLE + np.float32(rng.normal(0, 0.05))
