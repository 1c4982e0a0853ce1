"""A whole slide: islands of tissue on glass, healthy tissue in patches, and a lesion in a known place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from domainvl.samples.canvas import Field, clouds, plane
from domainvl.samples.slides.cases import LESIONS, Slide
from domainvl.samples.slides.textures import texture

UNIT = 96.0
"""Micrometres."""

_COARSE = 16
"""Pixels of the slide along one of the map that says what lies where."""
_GLASS = (243, 242, 245)
_SHARE = (0.08, 0.22)
"""Share of the tissue that the lesion takes."""
_CROWD = 0.07
"""Share of the tissue that shows another lesion's kind, in specks: no slide is pure."""


@dataclass(frozen=True)
class Drawing:
    """A drawn slide.

    Attributes:
        pixels: ``[H, W, 3]``.
        lesion: Where the lesion lies, on a map of 16 pixels each, ``[h, w]``.
    """

    pixels: NDArray[np.uint8]
    lesion: NDArray[np.bool_]


def draw_slide(rng: np.random.Generator, slide: Slide) -> Drawing:
    """Draws a slide."""
    unit = round(UNIT / slide.mpp)
    height, width = (int(rng.integers(11 * unit, 15 * unit)) for _ in range(2))
    coarse = (-(-height // _COARSE), -(-width // _COARSE))
    tissue = _islands(rng, coarse)
    fields = {kind: clouds(rng, coarse, 6) for kind in ("stroma", "glands", "fat")}
    kinds = np.array(list(fields), dtype=object)[np.argmax(list(fields.values()), axis=0)]
    for other in LESIONS:
        if other != slide.lesion:
            kinds[tissue & _most(clouds(rng, coarse, 12), tissue, _CROWD)] = other
    # One smooth hill is highest somewhere inside the tissue; what is above a level is the lesion.
    hill = _hill(rng, tissue) + np.float32(0.25) * clouds(rng, coarse, 7)
    lesion = tissue & _most(hill, tissue, float(rng.uniform(*_SHARE)))
    kinds[lesion] = slide.lesion
    stained = _stain(rng)
    picture = Image.new("RGB", (width, height))
    glass = np.array(_GLASS) + rng.integers(-4, 5, (512, 512, 1))
    _lay(picture, glass.astype(np.uint8), np.ones(coarse, np.bool_))
    for kind in sorted(set(kinds[tissue].tolist())):
        square = texture(rng, kind, unit)
        _lay(picture, (np.clip(square * stained, 0, 1) * 255).astype(np.uint8), tissue & (kinds == kind))
    return Drawing(np.asarray(picture), lesion)


def _islands(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.bool_]:
    at = plane(*shape)
    # Glass all around: the noise sinks towards the edges.
    sunk = np.maximum(np.abs(at.x), np.abs(at.y)) ** 4
    return clouds(rng, shape, 4) - np.float32(2.5) * sunk > np.float32(-0.6)


def _hill(rng: np.random.Generator, tissue: NDArray[np.bool_]) -> Field:
    at = plane(*tissue.shape)
    rows, columns = np.nonzero(tissue)
    top = int(rng.integers(len(rows)))
    x, y = at.x[0, columns[top]], at.y[rows[top], 0]
    return -np.hypot(at.x - x, at.y - y) * np.float32(2.5)


def _most(field: Field, inside: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """Where a field is highest, over a share of the places inside."""
    return field > np.quantile(field[inside], 1 - share)


def _stain(rng: np.random.Generator) -> NDArray[np.float32]:
    """How this laboratory stains and this scanner sees: a factor for each colour."""
    return (rng.normal(1, 0.05, 3) * rng.uniform(0.88, 1.08)).astype(np.float32)


def _lay(picture: Image.Image, square: NDArray[np.uint8], where: NDArray[np.bool_]) -> None:
    """Repeats a square over the slide wherever a coarse map is true."""
    size = (where.shape[1] * _COARSE, where.shape[0] * _COARSE)
    mask = Image.fromarray(where).resize(size, Image.Resampling.NEAREST)
    tile, side = Image.fromarray(square), len(square)
    for top in range(0, picture.height, side):
        for left in range(0, picture.width, side):
            part = mask.crop((left, top, left + side, top + side))
            if part.getbbox() is not None:
                picture.paste(tile, (left, top), part)
