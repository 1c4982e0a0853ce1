"""Drawing with soft edges: the few shapes and textures that every procedural phantom is made of.

Coordinates run from -1 to 1 over each axis, x to the right and y downwards, whatever the image size. Shapes are
signed distances (negative inside); ``fill`` and ``stroke`` turn them into opacities between 0 and 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Plane:
    """The coordinates of every pixel, each ``[H, W]``."""

    x: Field
    y: Field

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.x.shape
        return height, width


def plane(height: int, width: int, *, shift: tuple[float, float] = (0.0, 0.0), angle: float = 0.0) -> Plane:
    """Makes pixel coordinates, moved by ``shift`` and turned by ``angle`` radians."""
    y, x = np.meshgrid(
        np.linspace(-1, 1, height, dtype=np.float32),
        np.linspace(-1, 1, width, dtype=np.float32),
        indexing="ij",
    )
    x, y = x - np.float32(shift[0]), y - np.float32(shift[1])
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return Plane(x=cosine * x + sine * y, y=cosine * y - sine * x)


def ellipse(at: Plane, centre: tuple[float, float], radii: tuple[float, float], *, angle: float = 0.0) -> Field:
    """Signed distance to an ellipse; exact for circles, scaled by the smaller radius otherwise."""
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x, y = at.x - np.float32(centre[0]), at.y - np.float32(centre[1])
    along = (cosine * x + sine * y) / np.float32(radii[0])
    across = (cosine * y - sine * x) / np.float32(radii[1])
    return (np.sqrt(along * along + across * across) - 1) * np.float32(min(radii))


def fill(signed: Field, softness: float) -> Field:
    """Opacity of a shape's inside, with an edge that fades over about ``softness``."""
    return np.float32(0.5) * (1 - np.tanh(signed * np.float32(0.5 / softness)))


def stroke(distance: Field, width: float) -> Field:
    """Opacity of a line drawn where ``distance`` is zero."""
    scaled = distance * np.float32(1 / width)
    return np.exp(-scaled * scaled)


def clouds(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> Field:
    """Smooth noise ``[H, W]`` of unit variance with about ``cells`` blobs along each side."""
    from PIL import Image

    coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    height, width = shape
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return smooth / np.float32(max(float(smooth.std()), 1e-6))


def box_of(opacity: Field, *, level: float = 0.35) -> Box | None:
    """The tight box ``(left, top, right, bottom)`` of what is drawn, right and bottom exclusive; None if empty."""
    peak = float(opacity.max())
    if peak <= 0.02:
        return None
    drawn = opacity >= level * peak
    columns, rows = np.flatnonzero(drawn.any(axis=0)), np.flatnonzero(drawn.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
