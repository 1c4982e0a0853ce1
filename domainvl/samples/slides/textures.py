"""Stained tissue as periodic squares of colour: fibres, fat, glands, and the three lesions.

A unit is 96 micrometres. Colours lie between 0 and 1, haematoxylin is purple and eosin is pink.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from domainvl.samples.canvas import clouds

Colours = NDArray[np.float32]

UNITS = 2
"""Units along the side of a square."""

_PINK = np.array([0.9, 0.66, 0.79], np.float32)
_PURPLE = np.array([0.37, 0.22, 0.52], np.float32)


def texture(rng: np.random.Generator, kind: str, unit: int) -> Colours:
    """A square ``[2 * unit, 2 * unit, 3]`` of one kind of tissue, which fits itself at its edges."""
    return _KINDS[kind](rng, unit)


def _ground(rng: np.random.Generator, unit: int) -> Colours:
    side = UNITS * unit
    pink = _PINK + rng.normal(0, 0.02, 3).astype(np.float32)
    grain = rng.standard_normal((side, side, 1), dtype=np.float32) * np.float32(0.015)
    return pink + grain


def _fibres(rng: np.random.Generator, unit: int) -> Colours:
    image = _ground(rng, unit)
    side = len(image)
    y, x = np.meshgrid(*[np.arange(side, dtype=np.float32) / side * np.float32(2 * np.pi)] * 2, indexing="ij")
    # Whole waves along each side, so that the square fits itself.
    waves = np.sin(np.float32(rng.integers(6, 11)) * y + 2 * np.sin(np.float32(rng.integers(1, 4)) * x))
    dark = np.float32(1) / (1 + np.exp(-8 * (waves - np.float32(0.3))))
    return image - dark[..., None] * np.array([0.05, 0.18, 0.09], np.float32)


def _fat(rng: np.random.Generator, unit: int) -> Colours:
    image = _ground(rng, unit)
    for _ in range(11 * UNITS**2):
        _disc(image, rng.random(2), rng.uniform(0.09, 0.17) * unit, np.array([0.95, 0.94, 0.96], np.float32))
    return image


def _glands(rng: np.random.Generator, unit: int) -> Colours:
    image = _ground(rng, unit)
    for _ in range(2 * UNITS**2):
        centre, radius = rng.random(2), rng.uniform(0.15, 0.21) * unit
        _disc(image, centre, radius, _PURPLE + np.float32(0.13))
        _disc(image, centre, radius * 0.72, np.array([0.93, 0.91, 0.94], np.float32))
    return image


def _debris(rng: np.random.Generator, unit: int) -> Colours:
    image = _ground(rng, unit)
    side = len(image)
    grain = clouds(rng, (side, side), 45 * UNITS)
    return image - (grain > 0.35)[..., None] * np.array([0.17, 0.27, 0.16], np.float32)


def _crowded(low: float, high: float, density: int) -> Callable[[np.random.Generator, int], Colours]:
    def drawn(rng: np.random.Generator, unit: int) -> Colours:
        image = _ground(rng, unit)
        for _ in range(density * UNITS**2):
            colour = _PURPLE + np.float32(rng.normal(0, 0.05))
            _disc(image, rng.random(2), rng.uniform(low, high) * unit, colour, rng.uniform(0.8, 1.3))
        return image

    return drawn


_KINDS: Mapping[str, Callable[[np.random.Generator, int], Colours]] = {
    "stroma": _fibres,
    "fat": _fat,
    "glands": _glands,
    "tumor": _crowded(0.035, 0.06, 45),
    "lymphocytes": _crowded(0.016, 0.022, 62),
    "necrosis": _debris,
}


def _disc(image: Colours, centre: NDArray[np.float64], radius: float, colour: Colours, squeeze: float = 1.0) -> None:
    """Lays a soft-edged disc over the square, around its edges where need be."""
    side = len(image)
    reach = int(radius * 1.3) + 2
    around = np.arange(-reach, reach + 1)
    middle = (centre * side).astype(int)
    away = np.hypot(around[None, :], around[:, None] * squeeze)
    opacity = np.clip(radius - away + 0.5, 0, 1).astype(np.float32)[..., None]
    place = np.ix_((middle[1] + around) % side, (middle[0] + around) % side)
    image[place] += opacity * (colour - image[place])
