"""How a CT becomes the voxels that are stored and the tensor that a model takes: named, versioned, hashed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from domainvl.data.hounsfield import anatomy, check_finite, check_hounsfield
from domainvl.data.names import hint, listing
from domainvl.data.rejects import UnreadableImage
from domainvl.data.resample import Interpolation, Taps, new_length, resampled, rescaled
from domainvl.data.volume import Box, Matrix, Volume, check_orientation, spacing_of

Crop = Literal["none", "body", "lungs"]
Region = Literal["any", "chest"]

_LEAST_AIR = 300.0
"""Millilitres of air inside a chest; the cavities of a head hold less than a third of it."""
_HEADS = frozenset({"head", "brain", "skull", "headneck", "sinus", "jaw"})
_LEAST_SLICES = 3


@dataclass(frozen=True)
class VolumePreset:
    """Preprocessing of CT volumes. All triples are slices, rows, columns (`[D, H, W]`).

    Attributes:
        name: Where it comes from, for people; not part of the hash.
        spacing: Millimetres between voxels.
        size: Voxels that are kept, cut or padded with air around the middle; None for whatever the crop leaves.
        crop: What is kept around: `none`, the body, or the lungs.
        margin: Millimetres left around the box of `crop`.
        orientation: Where columns, rows and slices grow to.
        interpolation: linear or area.
        clip: Range of the values that are stored; below lies filling outside the field of view, above metal.
        region: `chest` refuses volumes without lungs.
        windows: One channel each: what becomes 0 and what becomes 1. They act when a batch is normalised, so the
            stored voxels serve any of them.
        mean: Subtracted after scaling to 0..1, one per window.
        std: Divided by.
        version: Raised when this code changes what it computes.
    """

    name: str
    spacing: tuple[float, float, float]
    size: tuple[int, int, int] | None = None
    crop: Crop = "none"
    margin: float = 10.0
    orientation: str = "RAS"
    interpolation: Interpolation = "linear"
    clip: tuple[int, int] = (-1024, 3071)
    region: Region = "any"
    windows: tuple[tuple[float, float], ...] = ((-1000.0, 1000.0),)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    version: int = 1

    def __post_init__(self) -> None:
        owner = f"VolumePreset {self.name!r}"
        check_orientation(self.orientation, owner)
        if len(self.spacing) != 3 or min(self.spacing) <= 0:
            raise ValueError(f"{owner}: spacing is {self.spacing}; give three positive numbers, slices first")
        if self.size is not None and (len(self.size) != 3 or min(self.size) < 1):
            raise ValueError(f"{owner}: size is {self.size}; give three positive numbers, slices first, or null")
        for field, value, known in (
            ("crop", self.crop, ("none", "body", "lungs")),
            ("interpolation", self.interpolation, ("linear", "area")),
            ("region", self.region, ("any", "chest")),
        ):
            if value not in known:
                raise ValueError(f"{owner}: {field} {value!r} is not one of {', '.join(known)}")
        low, high = self.clip
        if not -32768 <= low < high <= 32767:
            raise ValueError(f"{owner}: clip is {self.clip}; give two whole numbers that fit int16, the lower first")
        if not self.windows or any(bottom >= top for bottom, top in self.windows):
            raise ValueError(f"{owner}: windows is {self.windows}; give pairs of a lower and a higher value")
        if not len(self.mean) == len(self.std) == len(self.windows) or min(self.std) <= 0:
            raise ValueError(f"{owner}: mean and std need one number per window ({len(self.windows)}), std positive")

    @classmethod
    def named(cls, name: str) -> VolumePreset:
        """A preset by name, see `PRESETS`."""
        if name not in PRESETS:
            raise ValueError(
                f"VolumePreset: none is called {name!r}{hint(name, PRESETS)} There are: {listing(PRESETS)}"
            )
        return PRESETS[name]

    @property
    def digest(self) -> str:
        """Twelve hex digits over everything that changes what a model sees."""
        return self._hash("name")

    @property
    def stored(self) -> str:
        """Twelve hex digits over everything that changes a stored voxel; presets that differ in windows share them."""
        return self._hash("name", "windows", "mean", "std")

    def prepare(self, volume: Volume) -> tuple[NDArray[np.int16], Matrix]:
        """Check, turn, cut and resample.

        Returns:
            Voxels `[D, H, W]` and their affine `[4, 4]`.

        Raises:
            UnreadableImage: The volume is none of a body, not in Hounsfield units, or not of the region.
        """
        volume = volume.oriented(self.orientation)
        if min(volume.voxels.shape) < _LEAST_SLICES:
            raise UnreadableImage(
                f"it has the shape {volume.voxels.shape}; a volume has at least {_LEAST_SLICES} slices"
            )
        check_finite(volume.voxels)
        check_hounsfield(volume.voxels)
        affine = volume.affine
        steps = [wanted / there for wanted, there in zip(self.spacing, spacing_of(affine), strict=True)]
        lengths = [
            new_length(length, there, wanted)
            for length, there, wanted in zip(volume.voxels.shape, spacing_of(affine), self.spacing, strict=True)
        ]
        spans = self._spans(self._kept(volume), steps, lengths)
        real = [(max(0, start), min(length, stop)) for (start, stop), length in zip(spans, lengths, strict=True)]
        # Only what is kept is computed, on the grid of the whole volume, so that cropping never moves a voxel.
        taps = [
            Taps.of(length, step, start, stop - start, self.interpolation)
            for length, step, (start, stop) in zip(volume.voxels.shape, steps, real, strict=True)
        ]
        voxels = resampled(volume.voxels, taps, self.clip)
        around = [(start - first, last - stop) for (start, stop), (first, last) in zip(real, spans, strict=True)]
        if any(any(pair) for pair in around):
            voxels = np.pad(voxels, around, constant_values=self.clip[0])
        return voxels, rescaled(affine, steps, [first for first, _ in spans])

    def normalise(self, voxels: Tensor) -> Tensor:
        """Stored voxels `[..., D, H, W]` to windows as channels `[..., C, D, H, W]`; runs on the tensor's device."""
        values = voxels.to(torch.float32)
        channels = []
        for (low, high), mean, std in zip(self.windows, self.mean, self.std, strict=True):
            # One multiplication and one addition; clamping first keeps the two in range.
            scale = 1 / ((high - low) * std)
            channels.append(values.clamp(low, high).mul_(scale).sub_(low * scale + mean / std))
        return torch.stack(channels, dim=-4)

    def _kept(self, volume: Volume) -> Box | None:
        if self.crop == "none" and self.region == "any":
            return None
        part = volume.facts.get("BodyPartExamined", "").strip().lower()
        if self.region == "chest" and part in _HEADS:
            raise UnreadableImage(f"the header names the body part {part!r}, which is no chest")
        found = anatomy(volume)
        if self.region == "chest" and found.air < _LEAST_AIR:
            raise UnreadableImage(
                f"there are {found.air:.0f} ml of air inside the body, less than the {_LEAST_AIR:.0f} of any lungs: it "
                "is no chest (a head or an abdomen?)"
            )
        box = {"none": None, "body": found.body, "lungs": found.lungs}[self.crop]
        if box is None and self.crop != "none":
            raise UnreadableImage(f"no {self.crop} can be found to crop to")
        return box

    def _spans(self, box: Box | None, steps: list[float], lengths: list[int]) -> list[tuple[int, int]]:
        """First and last + 1 output voxel of every axis; outside 0..length where air is added."""
        spans = []
        for axis, (step, length) in enumerate(zip(steps, lengths, strict=True)):
            start, stop = 0, length
            if box is not None:
                margin = self.margin / self.spacing[axis]
                start = max(0, int(np.floor(box[axis].start / step - margin)))
                stop = min(length, int(np.ceil((box[axis].stop - 1) / step + margin)) + 1)
            if self.size is not None:
                there, wanted = stop - start, self.size[axis]
                start += there // 2 - wanted // 2 if there >= wanted else -((wanted - there) // 2)
                stop = start + wanted
            spans.append((start, stop))
        return spans

    def _hash(self, *without: str) -> str:
        # 3 and 3.0 are the same spacing, but not the same text.
        fields = {key: _plain(value) for key, value in asdict(self).items() if key not in without}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, str) else float(value)


PRESETS: Mapping[str, VolumePreset] = {
    "ct-clip": VolumePreset(
        "ct-clip", (1.5, 0.75, 0.75), (240, 480, 480), windows=((-1000, 1000),), mean=(0.5,), std=(0.5,)
    ),
    "merlin": VolumePreset("merlin", (3.0, 1.5, 1.5), (160, 224, 224), windows=((-1000, 1000),)),
    "hlip": VolumePreset("hlip", (3.0, 1.0, 1.0), (112, 336, 336), windows=((-1150, 350),)),
    "fvlm": VolumePreset(
        "fvlm", (3.0, 1.0, 1.0), (112, 256, 352), crop="lungs", windows=((-1150, 350),), region="chest"
    ),
    "chest": VolumePreset("chest", (3.0, 1.5, 1.5), crop="body", windows=((-1000, 1000),), region="chest"),
}
"""Presets by name. Spacing, size and window are those of the papers' code; grid and orientation are ours in all of them
(centre-aligned, RAS), so features of a published checkpoint differ a little from its authors' own."""

PresetName = Literal["ct-clip", "merlin", "hlip", "fvlm", "chest"]
