"""Hard-edged shapes on a small square: the drawing style of the pretraining cartoons.

Deliberately apart from ``domainvl.samples.canvas``: what the model is pretrained on must not be what it is tested on.
Coordinates run from 0 (left, top) to 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIDE = 96
"""Edge of a cartoon in pixels, the tiny model's input size."""
PATCH = 12
"""Edge of the tiny model's patches in pixels."""

Grey = NDArray[np.float32]
Mask = NDArray[np.bool_]

ROWS, COLUMNS = np.meshgrid(
    (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE, (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE, indexing="ij"
)


def blob(x: float, y: float, rx: float, ry: float, power: float = 2.0, angle: float = 0.0) -> Mask:
    """A superellipse: a diamond at power 1, an ellipse at 2, nearly a box at 6."""
    along, across = COLUMNS - np.float32(x), ROWS - np.float32(y)
    if angle:
        cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        along, across = cosine * along + sine * across, cosine * across - sine * along
    p = np.float32(power)
    return np.abs(along / np.float32(rx)) ** p + np.abs(across / np.float32(ry)) ** p < 1


def rim(shape: Mask, thickness: int = 1) -> Mask:
    """The inner border of a shape."""
    inner = shape.copy()
    for _ in range(thickness):
        core = inner.copy()
        core[1:] &= inner[:-1]
        core[:-1] &= inner[1:]
        core[:, 1:] &= inner[:, :-1]
        core[:, :-1] &= inner[:, 1:]
        inner = core
    return shape & ~inner


def stripes(rng: np.random.Generator, period: float, share: float, angle: float) -> Mask:
    """Parallel straight bars that cover ``share`` of the square."""
    across = np.float32(np.cos(angle)) * ROWS + np.float32(np.sin(angle)) * COLUMNS
    return np.mod(across / np.float32(period) + np.float32(rng.random()), 1) < np.float32(share)


def speckle(rng: np.random.Generator, cells: int) -> Grey:
    """Blocky noise between 0 and 1 with ``cells`` blocks along each side."""
    coarse = rng.random((cells, cells), dtype=np.float32)
    index = np.arange(SIDE) * cells // SIDE
    return coarse[np.ix_(index, index)]


def soften(image: Grey, rounds: int) -> Grey:
    """Blurs with a small binomial kernel, ``rounds`` times."""
    for _ in range(rounds):
        padded = np.pad(image, 1, mode="edge")
        image = (padded[:-2, 1:-1] + padded[2:, 1:-1] + 2 * image + padded[1:-1, :-2] + padded[1:-1, 2:]) / np.float32(
            6
        )
    return image


def grey_picture(rng: np.random.Generator, image: Grey) -> NDArray[np.uint8]:
    """Finishes a grey cartoon ``[S, S]``: random contrast, blur and noise; three equal channels."""
    image = soften(image, int(rng.integers(0, 3)))
    image = (image - 0.5) * np.float32(rng.uniform(0.6, 1.3)) + np.float32(0.5 + rng.normal(0, 0.08))
    image = image + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(0, 0.06))
    pixels = (np.clip(image, 0, 1) * 255).astype(np.uint8)
    return np.repeat(pixels[:, :, None], 3, axis=2)


def colour_picture(rng: np.random.Generator, image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Finishes a colour cartoon ``[S, S, 3]``: random brightness, tint and noise."""
    tint = rng.normal(1, 0.05, 3).astype(np.float32)
    image = image * tint * np.float32(rng.uniform(0.85, 1.15))
    image = image + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(0, 0.05))
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)
