"""How a CT volume becomes the tensor that a model was trained on: named, versioned, hashed.

Volumes are stored as Hounsfield units (HU) on the preset's grid and leave the loader as int16; windows and
normalisation run on the device. The hash travels with stores, checkpoints and adapters and is compared when they are
used again, as that of `domainvl.data.preset.Preset` is.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CropRule = Literal["centre", "resize"]
"""Centre crop, with air around what is too small; or the whole volume resized to `size`, whatever its spacing."""

_AXES = ("SI", "AP", "LR")
_PIECE = 2**16
"""Voxels that are normalised at a time on a CPU."""


@dataclass(frozen=True)
class VolumePreset:
    """Preprocessing of CT volumes, as the checkpoint asks for it.

    Attributes:
        name: Where it comes from, for people; not part of the hash.
        spacing: Voxel size in mm along right-left, anterior-posterior and head-foot (RAS order).
        size: Voxels (D, H, W) that the tower takes.
        windows: A channel for each, (low, high) in HU, scaled to 0..1 and clipped.
        mean: Subtracted from each channel behind the window.
        std: Divided by.
        crop: What happens to volumes of another extent.
        axes: Where D, H and W run to: S head or I foot, A front or P back, L or R, each of the three once.
        version: Raised when this code changes what it computes.
    """

    name: str
    spacing: tuple[float, float, float]
    size: tuple[int, int, int]
    windows: tuple[tuple[float, float], ...] = ((-1000.0, 1000.0),)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    crop: CropRule = "centre"
    axes: str = "SPL"
    version: int = 1

    def __post_init__(self) -> None:
        if len(self.spacing) != 3 or min(self.spacing) <= 0:
            raise ValueError(f"VolumePreset: spacing must be three positive lengths in mm, got {self.spacing}")
        if len(self.size) != 3 or min(self.size) < 1:
            raise ValueError(f"VolumePreset: size must be three positive numbers (D, H, W), got {self.size}")
        if not self.windows or any(len(window) != 2 or window[0] >= window[1] for window in self.windows):
            raise ValueError(f"VolumePreset: windows must be pairs low < high in HU, got {self.windows}")
        if not len(self.windows) == len(self.mean) == len(self.std) or min(self.std) <= 0:
            raise ValueError(
                f"VolumePreset: mean and std must hold one value per window ({len(self.windows)}), std above 0; got "
                f"{self.mean} and {self.std}"
            )
        if self.crop not in ("centre", "resize"):
            raise ValueError(f"VolumePreset: crop {self.crop!r} is not one of centre, resize")
        if sorted(next((pair for pair in _AXES if letter in pair), "") for letter in self.axes) != sorted(_AXES):
            raise ValueError(
                f"VolumePreset: axes must name one of S I, one of A P and one of L R, like 'SPL'; got {self.axes!r}"
            )
        # YAML and JSON have no tuples, and a frozen preset has to be hashable.
        for field in ("spacing", "size", "mean", "std"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        object.__setattr__(self, "windows", tuple((float(low), float(high)) for low, high in self.windows))

    @property
    def digest(self) -> str:
        """Twelve hex digits over everything that changes a voxel."""
        fields = {key: value for key, value in asdict(self).items() if key != "name"}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """What the tower takes of one volume: channels, D, H, W."""
        return (len(self.windows), *self.size)

    @property
    def air(self) -> int:
        """HU that volumes are padded with: black in every window."""
        return round(min(-1000.0, *(low for low, _ in self.windows)))

    @property
    def grid_spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along D, H and W."""
        along = {"LR": self.spacing[0], "AP": self.spacing[1], "SI": self.spacing[2]}
        depth, height, width = (along[next(pair for pair in _AXES if letter in pair)] for letter in self.axes)
        return depth, height, width

    def fit(self, volume: Tensor) -> Tensor:
        """Crop and pad HU `[..., D', H', W']`, which have `axes` and `spacing` already, to `[..., D, H, W]`."""
        if volume.dim() < 3:
            raise ValueError(f"VolumePreset.fit: expected HU of shape [..., D, H, W], got {tuple(volume.shape)}")
        if self.crop == "resize":
            lead = volume.shape[:-3]
            whole = volume.reshape(-1, 1, *volume.shape[-3:]).to(torch.float32)
            resized = F.interpolate(whole, size=self.size, mode="trilinear", align_corners=False)
            resized = resized if volume.is_floating_point() else resized.round()
            return resized.to(volume.dtype).reshape(*lead, *self.size)
        pads: list[int] = []
        for axis, wanted in zip((-3, -2, -1), self.size, strict=True):
            have = volume.shape[axis]
            if have > wanted:
                volume = volume.narrow(axis, (have - wanted) // 2, wanted)
            before = max(wanted - have, 0) // 2
            # F.pad counts from the last axis.
            pads = [before, max(wanted - have, 0) - before, *pads]
        return F.pad(volume, pads, value=self.air) if any(pads) else volume

    def normalise(self, volumes: Tensor) -> Tensor:
        """HU `[..., D, H, W]` to what the tower takes, `[..., C, D, H, W]` float32; runs on the tensor's device."""
        lead, space = volumes.shape[:-3], volumes.shape[-3:]
        shape = (*lead, len(self.windows), *space)
        if volumes.device.type == "cpu":
            # Memory of numpy's comes in huge pages, where the system has any, and not in thousands of page faults.
            # Pieces stay in the processor's cache through all steps.
            result, piece = torch.from_numpy(np.empty(shape, np.float32)), _PIECE
        else:
            result, piece = torch.empty(shape, device=volumes.device), max(1, space.numel())
        rows, channels = volumes.reshape(-1, space.numel()), result.view(-1, len(self.windows), space.numel())
        for row, made in zip(rows, channels, strict=True):
            for channel, (low, high), mean, std in zip(made, self.windows, self.mean, self.std, strict=True):
                for source, out in zip(row.split(piece), channel.split(piece), strict=True):
                    out.copy_(source).sub_(low).div_(high - low).clamp_(0, 1)
                    if (mean, std) != (0, 1):
                        out.sub_(mean).div_(std)
        return result

    def __call__(self, volume: Tensor) -> Tensor:
        """HU `[D', H', W']` on the preset's spacing and axes to model input, `[C, D, H, W]` float32."""
        return self.normalise(self.fit(volume))


CT_CLIP = VolumePreset(
    name="CT-CLIP", spacing=(0.75, 0.75, 1.5), size=(240, 480, 480), mean=(0.5,), std=(0.5,), axes="SLP"
)
"""As `scripts/data_inference_nii.py` of CT-CLIP prepares CT-RATE: the file's first axis is H.

The authors never turn a volume. That CT-RATE's files run to the left, to the back and to the head is an assumption here
and in `HLIP`, which only the files can settle."""

HLIP = VolumePreset(
    name="HLIP",
    spacing=(1.0, 1.0, 3.0),
    size=(112, 336, 336),
    windows=((-1150.0, 350.0),),
    mean=((0.485 + 0.456 + 0.406) / 3,),
    std=((0.229 + 0.224 + 0.225) / 3,),
)
"""As `data/ct_rate/process.py` and `src/hlip_train/data_chest_ct.py` of HLIP."""

MERLIN = VolumePreset(name="Merlin", spacing=(1.5, 1.5, 3.0), size=(160, 224, 224), axes="SRA")
"""As `merlin/data/monai_transforms.py`, whose RAS arrays the network turns to (z, x, y)."""
