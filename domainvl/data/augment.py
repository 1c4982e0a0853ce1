"""Augmentation of whole batches on the device that trains: crop, turn and flip in one resampling, then brightness."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augment:
    """Random changes to training images; what is drawn comes from torch's global generator.

    Attributes:
        scale: Smallest and largest share of the area that a crop keeps.
        ratio: Narrowest and widest crop, width over height.
        rotate: Largest angle in degrees, to either side.
        flip: Mirror half of the images. Off, because left and right mean something in text and in the chest.
        brightness: Largest relative change.
        contrast: Largest relative change around the image mean.
        views: Versions of every training image, drawn once, that take turns over the epochs; None draws anew in every
            epoch. What a frozen model says about finitely many pictures is kept (`Speed.cache`).
    """

    NUMBERS: ClassVar[int] = 8
    """Random numbers that one image takes."""

    scale: tuple[float, float] = (0.6, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    rotate: float = 5.0
    flip: bool = False
    brightness: float = 0.1
    contrast: float = 0.1
    views: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"Augment: scale is {self.scale}; give two rising shares in (0, 1]")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"Augment: ratio is {self.ratio}; give two rising positive numbers")
        for name in ("rotate", "brightness", "contrast"):
            if getattr(self, name) < 0:
                raise ValueError(f"Augment: {name} is {getattr(self, name)}; it must not be negative")
        if self.views is not None and self.views < 1:
            raise ValueError(f"Augment: views is {self.views}; give 1 or more, or null for new ones in every epoch")

    def __call__(self, images: Tensor, draw: Tensor | None = None) -> Tensor:
        """Change a batch.

        Args:
            images: uint8 or float in 0..255, `[B, C, H, W]`.
            draw: Random numbers in 0..1, `[B, NUMBERS]` on the CPU; None draws them.

        Returns:
            Float in 0..255, same shape, same device.
        """
        # Drawn on the CPU, so that a run on another device sees the same crops.
        draw = torch.rand(images.shape[0], self.NUMBERS) if draw is None else draw
        pixels = images.to(torch.float32)
        theta = self._affine(draw[:, :6], images.shape[-2], images.shape[-1]).to(images.device)
        grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
        pixels = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
        change = (2 * draw[:, 6:] - 1).to(images.device)[:, :, None, None, None]
        mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
        pixels = (pixels - mean) * (1 + self.contrast * change[:, 0]) + mean
        return (pixels * (1 + self.brightness * change[:, 1])).clamp(0, 255)

    def _affine(self, draw: Tensor, height: int, width: int) -> Tensor:
        """Where each output pixel is taken from, `[B, 2, 3]` in affine_grid's coordinates."""
        area = self.scale[0] + (self.scale[1] - self.scale[0]) * draw[:, 0]
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = torch.exp(low + (high - low) * draw[:, 1])
        across = (area * ratio * height / width).sqrt().clamp(max=1)
        down = (area / ratio * width / height).sqrt().clamp(max=1)
        right = (1 - across) * (2 * draw[:, 2] - 1)
        below = (1 - down) * (2 * draw[:, 3] - 1)
        angle = math.radians(self.rotate) * (2 * draw[:, 4] - 1)
        mirror = 1 - 2 * ((draw[:, 5] < 0.5) & self.flip).float()
        cos, sin = angle.cos(), angle.sin()
        # The coordinates run from -1 to 1 on both axes, so a turn of a picture that is not square needs its aspect.
        aspect = height / width
        first = torch.stack([across * cos * mirror, -down * sin * aspect, right], dim=1)
        second = torch.stack([across * sin / aspect * mirror, down * cos, below], dim=1)
        return torch.stack([first, second], dim=1)
