"""Made-up land: which cover lies where, and what colour it has in which season.

Neighbouring ground of one kind looks alike (a region has its own shade, texture and direction) and regions of the same
kind differ, as on real land. That is why a model that is tested beside its training tiles looks better than it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from domainvl.samples.canvas import Field, clouds

COVERS = (
    "forest",
    "annual crop land",
    "pasture",
    "lake",
    "residential buildings",
    "industrial buildings",
    "river",
    "highway",
)
"""Kinds of land, in the order of their numbers in a land-cover raster, from 1."""

RIVER, HIGHWAY = 7, 8
SEASONS = ("summer", "autumn")

_COLOURS: dict[str, NDArray[np.float32]] = {
    # Reflectance of blue, green, red and near infrared as shares of the sensor's range.
    "forest": np.array([0.16, 0.29, 0.15, 0.62], np.float32),
    "annual crop land": np.array([0.34, 0.50, 0.57, 0.50], np.float32),
    "pasture": np.array([0.33, 0.58, 0.45, 0.75], np.float32),
    "lake": np.array([0.40, 0.24, 0.13, 0.04], np.float32),
    "residential buildings": np.array([0.45, 0.50, 0.50, 0.45], np.float32),
    "industrial buildings": np.array([0.52, 0.53, 0.55, 0.42], np.float32),
    "river": np.array([0.46, 0.32, 0.18, 0.06], np.float32),
    "highway": np.array([0.66, 0.66, 0.66, 0.40], np.float32),
}
_AIR = (np.array([0.55, 0.60, 0.65, 0.90], np.float32), np.array([0.22, 0.14, 0.09, 0.03], np.float32))
"""What the air leaves of each band, and what it adds."""

_AUTUMN: dict[str, tuple[float, float, float, float]] = {
    "forest": (0.02, 0.01, 0.10, -0.15),
    "annual crop land": (-0.05, -0.10, -0.08, -0.15),
    "pasture": (0.0, -0.04, 0.05, -0.12),
}


@dataclass(frozen=True)
class Land:
    """The ground of one place.

    Attributes:
        cover: Number of the cover, from 1, `[H, W]`.
        region: Number of the region, `[H, W]`.
        style: Shade (4 bands), texture, direction and period of each region, `[R, 7]`.
    """

    cover: NDArray[np.uint8]
    region: NDArray[np.int32]
    style: NDArray[np.float32]


def make_land(rng: np.random.Generator, side: int, tile: int) -> Land:
    """Draws regions about two and a half tiles wide, with rivers and roads across them."""
    pitch = 2.6 * tile
    count = int(np.ceil(side / pitch)) + 1
    grid = (np.stack(np.meshgrid(np.arange(count), np.arange(count), indexing="ij"), -1).reshape(-1, 2)) * pitch
    seeds = (grid + rng.uniform(-0.35, 0.35, grid.shape) * pitch).astype(np.float32)
    kind = rng.integers(1, 7, len(seeds)).astype(np.uint8)
    rows, columns = np.meshgrid(np.arange(side, dtype=np.float32), np.arange(side, dtype=np.float32), indexing="ij")
    bend = clouds(rng, (side, side), count * 2) * np.float32(tile / 6)
    best = np.full((side, side), np.inf, np.float32)
    region = np.zeros((side, side), np.int32)
    for number, (y, x) in enumerate(seeds):
        distance = (rows + bend - y) ** 2 + (columns - bend - x) ** 2
        nearer = distance < best
        best[nearer], region[nearer] = distance[nearer], number
    cover = kind[region]
    for line, width in ((RIVER, 0.11), (HIGHWAY, 0.06)):
        for _ in range(max(1, round(side / tile / 5))):
            cover[_across(rng, rows, columns, side, tile, curved=line == RIVER) < width * tile / 2] = line
    style = np.concatenate(
        [
            rng.normal(0, 0.035, (len(seeds), 4)),
            rng.uniform(0.5, 1.5, (len(seeds), 1)),
            rng.uniform(0, np.pi, (len(seeds), 1)),
            rng.uniform(0.04, 0.09, (len(seeds), 1)) * tile,
        ],
        axis=1,
    ).astype(np.float32)
    return Land(cover, region, style)


def colours(rng: np.random.Generator, land: Land, season: str, tile: int) -> NDArray[np.float32]:
    """Blue, green, red and near infrared of a season as shares of the sensor's range, `[4, H, W]`."""
    side = land.cover.shape[0]
    style = land.style[land.region]
    image = np.zeros((4, side, side), np.float32)
    for number, name in enumerate(COVERS, 1):
        here = land.cover == number
        colour = _COLOURS[name] + np.array(_AUTUMN.get(name, (0, 0, 0, 0)) if season == "autumn" else 0, np.float32)
        image[:, here] = colour[:, None]
    ground = land.cover < RIVER
    image += np.where(ground, style[..., :4].transpose(2, 0, 1), 0)
    image += _texture(rng, land, style, tile)
    haze = clouds(rng, (side, side), 5) * np.float32(0.015) + np.float32(rng.normal(0, 0.015))
    # Through air, land is paler and bluer than a drawing of it.
    image = _AIR[0][:, None, None] * image + _AIR[1][:, None, None] * np.float32(rng.uniform(0.7, 1.3))
    return image + haze + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(0.025)


def _texture(rng: np.random.Generator, land: Land, style: Field, tile: int) -> Field:
    """Crowns, furrows and roofs, `[4, H, W]`."""
    side = land.cover.shape[0]
    rows, columns = np.meshgrid(np.arange(side, dtype=np.float32), np.arange(side, dtype=np.float32), indexing="ij")
    strength, angle, period = style[..., 4], style[..., 5], style[..., 6]
    crowns = clouds(rng, (side, side), side * 30 // tile) * np.float32(0.045) * strength
    phase = (columns * np.cos(angle) + rows * np.sin(angle)) * (2 * np.pi) / period
    furrows = np.sin(phase) * np.float32(0.05) * strength
    found = np.zeros((4, side, side), np.float32)
    found += np.where(land.cover == 1, crowns, 0) + np.where(land.cover == 2, furrows, 0)
    for number, size, share, colour in (
        (5, 0.055, 0.30, (0.38, 0.45, 0.72, 0.45)),
        (6, 0.20, 0.45, (0.90, 0.90, 0.90, 0.60)),
    ):
        roofs = _roofs(rng, rows, columns, angle, size * tile, share) & (land.cover == number)
        ground = _COLOURS[COVERS[number - 1]]
        found[:, roofs] += (np.array(colour, np.float32) - ground)[:, None]
    return found


def _roofs(
    rng: np.random.Generator, rows: Field, columns: Field, angle: Field, size: float, share: float
) -> NDArray[np.bool_]:
    """Rectangles along the streets of a region; some plots are empty."""
    plot = np.float32(size / np.sqrt(share))
    along = (columns * np.cos(angle) + rows * np.sin(angle)) / plot
    across = (rows * np.cos(angle) - columns * np.sin(angle)) / plot
    inside = (np.mod(along, 1) < np.sqrt(share)) & (np.mod(across, 1) < np.sqrt(share))
    built = rng.random((256, 256)) < 0.75
    taken: NDArray[np.bool_] = built[np.floor(along).astype(int) % 256, np.floor(across).astype(int) % 256]
    return inside & taken


def _across(rng: np.random.Generator, rows: Field, columns: Field, side: int, tile: int, *, curved: bool) -> Field:
    """Distance in pixels to a line across the place."""
    angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.45, 0.45) * side
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x, y = columns - side / 2, rows - side / 2
    along, across = cosine * x + sine * y, cosine * y - sine * x
    if curved:
        across = across + np.sin(along / np.float32(rng.uniform(0.35, 0.7) * tile)) * np.float32(0.12 * tile)
    distance: Field = np.abs(across - np.float32(offset))
    return distance
