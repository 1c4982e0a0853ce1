"""How a CT becomes the voxels that are stored: turned, cut, resampled, checked, and hashed.

A `VolumePreset` says what a checkpoint takes; a plan says what is kept on disk for it. Presets that differ in windows,
normalisation or size share a plan and its volumes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from domainvl.data.rejects import UnreadableImage
from domainvl.data.volumes.hounsfield import anatomy, check_finite, check_hounsfield
from domainvl.data.volumes.preset import VolumePreset
from domainvl.data.volumes.resample import Interpolation, Taps, new_length, resampled, rescaled
from domainvl.data.volumes.volume import Box, Matrix, Volume, check_orientation, spacing_of

Crop = Literal["none", "body", "lungs"]
Region = Literal["any", "chest"]

_LEAST_AIR = 300.0
"""Millilitres of air inside a chest; the cavities of a head hold less than a third of it."""
_HEADS = frozenset({"head", "brain", "skull", "headneck", "sinus", "jaw"})
_LEAST_SLICES = 3


@dataclass(frozen=True)
class VolumePlan:
    """What is stored of a volume. All triples are slices, rows, columns (`[D, H, W]`).

    Attributes:
        spacing: Millimetres between voxels.
        size: Voxels that are kept, cut or padded with air around the middle; None for whatever the crop leaves.
        crop: What is kept around: `none`, the body, or the lungs.
        margin: Millimetres left around the box of `crop`.
        orientation: Where columns, rows and slices grow to.
        interpolation: linear or area.
        clip: Range of the values that are stored; below lies filling outside the field of view, above metal.
        region: `chest` refuses volumes without lungs.
        version: Raised when this code changes what it computes.
    """

    spacing: tuple[float, float, float]
    size: tuple[int, int, int] | None = None
    crop: Crop = "none"
    margin: float = 10.0
    orientation: str = "RAS"
    interpolation: Interpolation = "linear"
    clip: tuple[int, int] = (-1024, 3071)
    region: Region = "any"
    version: int = 1

    def __post_init__(self) -> None:
        owner = "VolumePlan"
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

    @classmethod
    def of(cls, preset: VolumePreset, crop: Crop = "none", region: Region = "any") -> VolumePlan:
        """What a preset needs: its spacing and axes, as much of the volume as `crop` keeps."""
        return cls(preset.grid_spacing, crop=crop, orientation=preset.axes[::-1], region=region)

    @property
    def digest(self) -> str:
        """Twelve hex digits over everything that changes a stored voxel."""
        text = json.dumps([_plain(value) for _, value in sorted(asdict(self).items())])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

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


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, str) else float(value)
