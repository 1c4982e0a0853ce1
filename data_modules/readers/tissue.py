"""Where on a slide there is tissue: stained pixels against glass, by Otsu's threshold on saturation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_modules.readers.slide import Pixels

_LEVELS = 256


@dataclass(frozen=True)
class Tissue:
    """How tissue is told from glass.

    Attributes:
        mpp: Microns per pixel at which it is looked for.
        least: Saturation (0 to 255) that is never glass's; also what is left of the threshold on a slide without
            tissue, where Otsu's splits the noise.
        most: Saturation that always counts as tissue; Otsu's threshold splits a slide without glass above it.
    """

    mpp: float = 8.0
    least: int = 12
    most: int = 40

    def __post_init__(self) -> None:
        if self.mpp <= 0 or not 0 <= self.least <= self.most < _LEVELS:
            raise ValueError(
                f"Tissue: mpp is {self.mpp}, least {self.least}, most {self.most}; give a positive mpp and "
                "0 <= least <= most <= 255"
            )

    def mask(self, pixels: Pixels) -> NDArray[np.bool_]:
        """Which pixels of an overview `[H, W, 3]` show tissue, `[H, W]`."""
        values = saturation(pixels)
        return values > np.clip(otsu(values), self.least, self.most)


def saturation(pixels: Pixels) -> NDArray[np.uint8]:
    """Saturation as in HSV, 0 to 255, `[H, W]`; of black ink it is as low as of glass."""
    highest, lowest = pixels.max(axis=-1).astype(np.uint16), pixels.min(axis=-1)
    return (255 * (highest - lowest) // np.maximum(highest, 1)).astype(np.uint8)


def otsu(values: NDArray[np.uint8]) -> int:
    """The threshold that parts values into two groups, `value > threshold`, with the least variance inside them."""
    counts = np.bincount(values.ravel(), minlength=_LEVELS).astype(np.float64)
    below = counts.cumsum()
    above = below[-1] - below
    sums = (counts * np.arange(_LEVELS)).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = sums / below - (sums[-1] - sums) / above
        between = np.nan_to_num(below * above * gap * gap)
    return int(between.argmax())
