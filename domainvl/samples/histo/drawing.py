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


@dataclass(frozen=True)
class Scan:
    """What all patches of a slide share.

    Attributes:
        stain: Strength of red, green and blue absorption.
        light: Factor on brightness.
        unit: Pixels of 96 micrometres.
        blur: Radius in pixels.
    """

    stain: NDArray[np.float32]
    light: float
    unit: int
    blur: float


def draw_scan(rng: np.random.Generator) -> Scan:
    """Draws a laboratory and a scanner."""
    stain = np.exp(rng.normal(0, 0.22, 3)).astype(np.float32)
    return Scan(stain, float(rng.uniform(0.85, 1.08)), int(rng.integers(90, 150)), float(rng.uniform(0.3, 1.1)))


def draw_patch(rng: np.random.Generator, patch: Patch, scan: Scan) -> NDArray[np.uint8]:
    """Draws a patch ``[128, 128, 3]``."""
    pixels = _tissue(rng, patch.kind, scan.unit)
    at = plane(SIDE, SIDE)
    along = np.cos(np.float32(patch.angle)) * at.x + np.sin(np.float32(patch.angle)) * at.y
    border = along + np.float32(0.18) * clouds(rng, (SIDE, SIDE), 5)
    for other in patch.besides:
        beyond = border > np.quantile(border, 1 - patch.share)
        np.copyto(pixels, _tissue(rng, other, scan.unit), where=beyond[..., None])
    # Absorption grows with the stain: what was white stays white.
    pixels = scan.light * np.clip(pixels, 0.02, 1) ** scan.stain
    pixels += rng.standard_normal((SIDE, SIDE, 1), dtype=np.float32) * np.float32(0.02)
    image = Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(scan.blur)))


def _tissue(rng: np.random.Generator, kind: str, unit: int) -> NDArray[np.float32]:
    square = texture(rng, _TEXTURES.get(kind, kind), unit)
    top, left = (int(rng.integers(0, len(square) - SIDE)) for _ in range(2))
    return square[top : top + SIDE, left : left + SIDE].copy()
