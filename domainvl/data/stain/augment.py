"""Augmentation of histology: every direction is as good as any, and no two laboratories stain alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from domainvl.data.augment import Augment
from domainvl.data.stain.stains import jittered


@dataclass(frozen=True)
class HistologyAugment(Augment):
    """`Augment` with quarter turns, mirrored halves, and other amounts of haematoxylin, eosin and the rest.

    Amounts become `amount * (1 + a) + b` with a and b drawn evenly from -`stain` to `stain`, of each stain its own
    (Tellez et al., 2018, arXiv 1808.05896, who call .05 light and .2 strong).

    Attributes:
        stain: Largest change of a stain.
    """

    NUMBERS: ClassVar[int] = Augment.NUMBERS + 7

    rotate: float = 15.0
    flip: bool = True
    stain: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.stain < 1:
            raise ValueError(f"HistologyAugment: stain is {self.stain}; give a share from 0 to below 1")

    def __call__(self, images: Tensor, draw: Tensor | None = None) -> Tensor:
        """See `Augment`."""
        draw = torch.rand(images.shape[0], self.NUMBERS) if draw is None else draw
        pixels = super().__call__(images, draw[:, : Augment.NUMBERS])
        pixels = _turned(pixels, (4 * draw[:, Augment.NUMBERS]).long().clamp(max=3))
        if not self.stain:
            return pixels
        change = self.stain * (2 * draw[:, Augment.NUMBERS + 1 :] - 1)
        return jittered(pixels, 1 + change[:, :3], change[:, 3:])


def _turned(pixels: Tensor, turns: Tensor) -> Tensor:
    """Every picture by its number of quarter turns; pictures that are not square by half turns only."""
    square = pixels.shape[-1] == pixels.shape[-2]
    turned = pixels.clone()
    for turn in range(1, 4):
        rows = (turns == turn).nonzero()[:, 0].to(pixels.device)
        if len(rows) and (square or turn == 2):
            turned[rows] = torch.rot90(pixels[rows], turn, (-2, -1))
    return turned
