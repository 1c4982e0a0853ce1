"""Other laboratories: pictures as they would look with more or less of a stain, or under another lamp.

The amounts of haematoxylin and eosin are multiplied and moved on the axes of Ruifrok and Johnston; `STAIN_SHIFTS` are
eight fixed ones, so that two results under the same name mean the same pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from domainvl.data.stain.stains import jittered


@dataclass(frozen=True)
class StainShift:
    """One fixed change of stains.

    Attributes:
        haematoxylin: Factor on its amount.
        eosin: Factor on its amount.
        rest: Factor on what neither explains.
        offset: Density that is added to both stains everywhere: thicker sections, a weaker lamp.
    """

    haematoxylin: float = 1.0
    eosin: float = 1.0
    rest: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if min(self.haematoxylin, self.eosin, self.rest) < 0:
            raise ValueError(f"StainShift: factors must not be negative, got {self}")

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pictures 0..255 `[B, 3, H, W]` to float of the same shape."""
        factor = torch.tensor([self.haematoxylin, self.eosin, self.rest]).expand(len(pixels), -1)
        offset = torch.tensor([self.offset, self.offset, 0.0]).expand(len(pixels), -1)
        return jittered(pixels, factor, offset)


STAIN_SHIFTS: Mapping[str, StainShift] = MappingProxyType(
    {
        "strong haematoxylin": StainShift(haematoxylin=1.4),
        "weak haematoxylin": StainShift(haematoxylin=0.6),
        "strong eosin": StainShift(eosin=1.4),
        "weak eosin": StainShift(eosin=0.6),
        "strong both": StainShift(1.3, 1.3),
        "faded": StainShift(0.6, 0.6, 0.6),
        "blue for pink": StainShift(1.3, 0.7),
        "thick section": StainShift(offset=0.1),
    }
)
"""Named shifts: about what was measured between laboratories, and no more."""
