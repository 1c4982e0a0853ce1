"""Small grey pictures `[48, 48]`: how they are made, and what parts of them look like at full size."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from domainvl.evaluation.metrics import Floats

SIDE = 48

Thumbs = NDArray[np.float32]
"""Several of them, `[P, 48, 48]`."""


def thumbnail(picture: NDArray[np.generic]) -> NDArray[np.uint8]:
    """A picture `[H, W]` or `[H, W, channels]` of any number type, stretched to a range of its own."""
    grey = picture.astype(np.float32) if picture.ndim == 2 else picture.mean(axis=2, dtype=np.float32)
    small = _area(grey.shape[0]) @ grey @ _area(grey.shape[1]).T
    if not np.isfinite(small).all():
        raise ValueError("Fingerprints: a picture holds NaN or infinity; leave it out, or repair it")
    low, high = np.percentile(small, (2, 98))
    # Some room on both sides, so that little is cut off when a copy is stretched otherwise.
    stretched = (small - low) / (high - low) * 215 + 20 if high > low else np.full_like(small, 128)
    return np.clip(np.round(stretched), 0, 255).astype(np.uint8)


def cropped(thumbs: Thumbs, cuts: Floats) -> Thumbs:
    """Parts of thumbnails at full size.

    Args:
        thumbs: `[P, 48, 48]`.
        cuts: Shares that are cut away above, below, on the left and on the right, `[P, 4]`.
    """
    down, across = lines(cuts[:, 0], cuts[:, 1]), lines(cuts[:, 2], cuts[:, 3])
    return np.asarray(down @ thumbs @ across.transpose(0, 2, 1))


def lines(front: Floats, back: Floats) -> Thumbs:
    """`[P, 48, 48]`: what is left of a line without shares of its two ends, at full length, linear between centres."""
    centres = (np.arange(SIDE) + 0.5) / SIDE
    places = np.clip((front[:, None] + centres * (1 - front - back)[:, None]) * SIDE - 0.5, 0, SIDE - 1)
    low = np.minimum(np.floor(places).astype(int), SIDE - 2)
    found = np.zeros((len(front), SIDE, SIDE), np.float32)
    each, row = np.arange(len(front))[:, None], np.arange(SIDE)
    found[each, row, low] = 1 - (places - low)
    found[each, row, low + 1] = places - low
    return found


@cache
def _area(length: int) -> Thumbs:
    """`[48, length]`: means over equal shares of a line, parts of pixels by their part."""
    edges = np.linspace(0, length, SIDE + 1)
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.clip(overlap, 0, None) / (length / SIDE)).astype(np.float32)
