"""How a picture becomes the tensor that a model was trained on: named, versioned, hashed.

The hash travels with checkpoints, caches and adapters and is compared when they are used again. Feeding a model
pictures that were prepared in another way is the most common silent error of the field.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

Fit = Literal["crop", "squash", "pad"]
"""Shortest side to `size` and centre crop; both sides to `size`; longest side to `size` and centre pad with black."""

Half = Literal["even", "down"]
"""Where a centre crop begins when half a pixel is left over: torchvision rounds to even, transformers down."""

_INTERPOLATIONS = {
    "bicubic": InterpolationMode.BICUBIC,
    "bilinear": InterpolationMode.BILINEAR,
    "nearest": InterpolationMode.NEAREST_EXACT,
}


@dataclass(frozen=True)
class Preset:
    """Preprocessing of 2D images, as the checkpoint asks for it.

    Attributes:
        name: Where it comes from, for people; not part of the hash.
        size: Height and width that the tower takes.
        fit: What happens to images that are not square.
        interpolation: bicubic, bilinear or nearest, always antialiased.
        mean: Subtracted per channel after scaling to 0..1.
        std: Divided by.
        resize: Side that is resized to before the crop; `size` when None.
        half: What a centre crop does with half a pixel; the libraries differ, which shifts a picture by one pixel.
        version: Raised when this code changes what it computes.
    """

    name: str
    size: int
    fit: Fit = "crop"
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    resize: int | None = None
    half: Half = "even"
    version: int = 1

    def __post_init__(self) -> None:
        if self.interpolation not in _INTERPOLATIONS:
            raise ValueError(
                f"Preset: interpolation {self.interpolation!r} is not one of {', '.join(sorted(_INTERPOLATIONS))}"
            )
        if self.fit not in ("crop", "squash", "pad"):
            raise ValueError(f"Preset: fit {self.fit!r} is not one of crop, squash, pad")
        if self.half not in ("even", "down"):
            raise ValueError(f"Preset: half {self.half!r} is not one of even, down")
        if self.half == "down" and (self.fit == "pad" or (self.resize or self.size) < self.size):
            raise ValueError(
                "Preset: half='down' is for cropping alone; it needs fit crop or squash and resize >= size"
            )

    @property
    def digest(self) -> str:
        """Twelve hex digits over everything that changes a pixel."""
        fields = {key: value for key, value in asdict(self).items() if key != "name"}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]

    def pixels(self, image: Image.Image | Tensor) -> Tensor:
        """Resize and crop to uint8 `[3, size, size]`; cheap to store, to cache and to send to a device.

        Args:
            image: A PIL image, or uint8 `[C, H, W]` with one or three channels.
        """
        tensor = tv.pil_to_tensor(image.convert("RGB")) if isinstance(image, Image.Image) else image
        if tensor.dtype != torch.uint8 or tensor.dim() != 3:
            raise ValueError(f"Preset.pixels: expected uint8 [C, H, W], got {tensor.dtype} {tuple(tensor.shape)}")
        if tensor.shape[0] == 1:
            tensor = tensor.expand(3, -1, -1)
        height, width, top, left = self.placement(*tensor.shape[-2:])
        shape = [height, width]
        tensor = tv.resize(tensor, shape, interpolation=_INTERPOLATIONS[self.interpolation], antialias=True)
        if self.half == "down":
            return tv.crop(tensor, top, left, self.size, self.size)
        # center_crop pads with zeros where the image is smaller, which is what `pad` asks for.
        return tv.center_crop(tensor, [self.size, self.size])

    def placement(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Height and width that a picture is resized to, and the row and column of it that become the first ones.

        They are negative where the picture is smaller than `size` and padded.
        """
        resized = self._resized(height, width)
        return resized[0], resized[1], self._begin(resized[0]), self._begin(resized[1])

    def _begin(self, length: int) -> int:
        extra = length - self.size
        if extra < 0 or self.half == "down":
            # Of an odd padding the greater half is below and to the right, as torchvision has it.
            return -(-extra // 2) if extra < 0 else extra // 2
        return round(extra / 2)

    def _resized(self, height: int, width: int) -> list[int]:
        side = self.resize or self.size
        if self.fit == "squash":
            return [side, side]
        anchor = min(height, width) if self.fit == "crop" else max(height, width)
        # The libraries truncate the other side when they crop and round it when they pad; features differ otherwise.
        whole = round if self.fit == "pad" else int
        return [max(1, whole(side * length / anchor)) for length in (height, width)]

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 or 0..255 float `[..., 3, H, W]` to what the tower takes; runs on the tensor's device."""
        mean = torch.tensor(self.mean, device=pixels.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(-1, 1, 1)
        return (pixels.to(torch.float32) / 255 - mean) / std

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        """Picture to model input, `[3, size, size]` float32."""
        return self.normalise(self.pixels(image))
