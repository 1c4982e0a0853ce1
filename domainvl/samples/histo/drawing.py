"""A patch: two tissues with a ragged border between them, as one laboratory stains and one scanner sees them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from domainvl.samples.canvas import clouds, plane
from domainvl.samples.histo.cases import Patch
from domainvl.samples.slides.textures import texture

SIDE = 128
"""Pixels along a patch."""

_TEXTURES = {"adipose tissue": "fat"}
_LAB = np.array([0.7, 1.5, 0.6], np.float32)
"""A laboratory that stains redder than the model has seen."""
_TRIES = 4
_UNIT = 64
"""Pixels of 96 micrometres in a texture; patches enlarge it, as objectives do."""


@dataclass(frozen=True)
class Scan:
    """What all patches of a slide share.

    Attributes:
        stain: Strength of red, green and blue absorption.
        light: Factor on brightness.
        field: Pixels of the texture along a patch: how much tissue it shows.
        blur: Radius in pixels.
    """

    stain: NDArray[np.float32]
    light: float
    field: int
    blur: float


def draw_scan(rng: np.random.Generator) -> Scan:
    """Draws a laboratory and a scanner."""
    stain = _LAB * np.exp(rng.normal(0, 0.22, 3)).astype(np.float32)
    return Scan(stain, float(rng.uniform(0.85, 1.08)), int(rng.integers(30, 48)), float(rng.uniform(0.3, 1.1)))


def draw_patch(rng: np.random.Generator, patch: Patch, scan: Scan) -> NDArray[np.uint8]:
    """Draws a patch ``[128, 128, 3]``."""
    pixels = _tissue(rng, patch.kind, scan.field).copy()
    at = plane(SIDE, SIDE)
    along = np.cos(np.float32(patch.angle)) * at.x + np.sin(np.float32(patch.angle)) * at.y
    border = along + np.float32(0.18) * clouds(rng, (SIDE, SIDE), 5)
    for other in patch.besides:
        beyond = border > np.quantile(border, 1 - patch.share)
        np.copyto(pixels, _tissue(rng, other, scan.field), where=beyond[..., None])
    # Absorption grows with the stain: what was white stays white.
    pixels = scan.light * np.clip(pixels, 0.02, 1) ** scan.stain
    pixels += rng.standard_normal((SIDE, SIDE, 1), dtype=np.float32) * np.float32(0.02)
    image = Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(scan.blur)))


def _tissue(rng: np.random.Generator, kind: str, field: int) -> NDArray[np.float32]:
    square = texture(rng, _TEXTURES.get(kind, kind), _UNIT)
    corners = rng.integers(0, len(square) - field, (_TRIES, 2)).tolist()
    parts = [square[top : top + field, left : left + field] for top, left in corners]
    # Somebody chose the field: it shows something.
    part = np.clip(max(parts, key=lambda one: float(one.std())), 0, 1)
    enlarged = Image.fromarray((255 * part).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(enlarged, dtype=np.float32) / np.float32(255)
