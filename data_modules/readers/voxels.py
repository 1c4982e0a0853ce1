"""What the readers of volumes share: allowed tags, stored values to Hounsfield units, a header from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domainvl.data.rejects import UnreadableImage
from domainvl.data.volumes.volume import LPS_TO_RAS, Matrix

ALLOWED = (
    "Modality",
    "Manufacturer",
    "ManufacturerModelName",
    "KVP",
    "ConvolutionKernel",
    "SliceThickness",
    "BodyPartExamined",
    "PatientPosition",
)
"""Everything of a header that may go further. Dates, identifiers, descriptions and private tags stay in the file."""

_LONGEST = 64
_SHORT = np.iinfo(np.int16)


@dataclass(frozen=True)
class Header:
    """What a file's own header should have said. Lengths in millimetres, places as DICOM has them (x to the left).

    Attributes:
        spacing: Between columns, rows and slices.
        origin: Centre of the first voxel.
        cosines: Directions of growing columns and of growing rows (`ImageOrientationPatient`).
        slope: Stored values are multiplied by it, unless the file has a scale of its own.
        intercept: And this is added.
    """

    spacing: tuple[float, float, float]
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    cosines: tuple[float, float, float, float, float, float] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def affine(self) -> Matrix:
        """`[4, 4]`, to millimetres right, front, up."""
        right, down = np.array(self.cosines[:3]), np.array(self.cosines[3:])
        lengths = np.linalg.norm(right), np.linalg.norm(down)
        if min(lengths) < 0.5:
            raise UnreadableImage(f"the header gives the directions {self.cosines}, which are none")
        right, down = right / lengths[0], down / lengths[1]
        axes = np.stack([right, down, np.cross(right, down)], axis=1) * np.array(self.spacing)
        return LPS_TO_RAS @ placed(axes, np.array(self.origin))


def placed(axes: Matrix, origin: Matrix) -> Matrix:
    """Axes `[3, 3]` (in columns) and an origin `[3]` as one affine `[4, 4]`."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, origin
    return affine


def check_size(shape: tuple[int, ...], itemsize: int, limit: int) -> None:
    """Raise before anything is allocated for a volume that memory has no room for."""
    needed = int(np.prod([int(length) for length in shape], dtype=object)) * itemsize
    if needed > limit:
        named = " x ".join(map(str, shape))
        raise UnreadableImage(
            f"the header promises {named} voxels, {needed / 2**30:.1f} GiB, more than the {limit / 2**30:.1f} GiB that "
            "one volume may take; raise `largest` if that is right"
        )


def hounsfield(stored: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    """Stored values `[D, H, W]` to Hounsfield units: int16 where that is exact, else float32.

    One slice at a time, so that no wider copy of the volume is ever made.
    """
    if not np.isfinite((slope, intercept)).all() or slope == 0:
        raise UnreadableImage(f"the header gives slope {slope:g} and intercept {intercept:g}, which rescale nothing")
    whole = stored.dtype.kind in "iu" and float(slope).is_integer() and float(intercept).is_integer()
    if whole and (slope, intercept) == (1.0, 0.0) and stored.dtype == np.int16:
        return stored
    if whole:
        ends = [int(stored.min()) * int(slope) + int(intercept), int(stored.max()) * int(slope) + int(intercept)]
        whole = min(ends) >= _SHORT.min and max(ends) <= _SHORT.max
    result = np.empty(stored.shape, np.int16 if whole else np.float32)
    for place, piece in enumerate(stored):
        if whole:
            result[place] = piece.astype(np.int64) * int(slope) + int(intercept)
        else:
            # Numbers too large for float32 become infinite and are refused as such.
            with np.errstate(over="ignore", invalid="ignore"):
                result[place] = piece.astype(np.float64) * slope + intercept
    return result


def allowed(tags: Mapping[str, Any]) -> Mapping[str, str]:
    """The allowed tags that there are, as short texts."""
    there = {name: str(tags[name]).strip()[:_LONGEST] for name in ALLOWED if tags.get(name) not in (None, "")}
    return MappingProxyType(there)
