"""Where in a picture a phrase is true: boxes of the original picture, and the same boxes in a model's pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from domainvl.data.preset import Preset


@dataclass(frozen=True, slots=True)
class Box:
    """A phrase and where it is true. The phrase stays out of the repr: it comes from a report.

    Attributes:
        phrase: What is seen there.
        x0: Left edge in pixels of the original picture, of which the first begins at 0.
        y0: Upper edge.
        x1: Right edge, exclusive.
        y1: Lower edge, exclusive.
        width: Width of the original picture.
        height: Height of the original picture.
    """

    phrase: str = field(repr=False)
    x0: float
    y0: float
    x1: float
    y1: float
    width: int
    height: int

    def __post_init__(self) -> None:
        inside = 0 <= self.x0 < self.x1 <= self.width and 0 <= self.y0 < self.y1 <= self.height
        # Comparisons with NaN are false, so it does not get through either.
        if not inside or not math.isfinite(self.width * self.height):
            raise ValueError(
                f"Box: {self.x0, self.y0, self.x1, self.y1} is no box inside a picture of {self.width} x {self.height} "
                "pixels; give left, top, right, bottom with left < right and top < bottom"
            )


def preset_box(box: Box, preset: Preset) -> tuple[float, float, float, float] | None:
    """Left, top, right and bottom in the `size` x `size` pixels that a preset makes of the picture.

    What the crop cuts off is cut off the box; None when nothing is left of it.
    """
    height, width, top, left = preset.placement(box.height, box.width)
    across, down = width / box.width, height / box.height
    x0, x1 = (min(max(x * across - left, 0.0), float(preset.size)) for x in (box.x0, box.x1))
    y0, y1 = (min(max(y * down - top, 0.0), float(preset.size)) for y in (box.y0, box.y1))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
