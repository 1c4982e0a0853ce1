"""A volume and where it lies: voxels, affine, and turns of the axes that can be taken back to the last bit.

Arrays are `[D, H, W]` (slice, row, column). The affine maps `(column, row, slice, 1)` to millimetres with x to the
Right, y to the front (Anterior) and z up (Superior), as NIfTI has it. An orientation code such as RAS names where
column, row and slice numbers grow to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import permutations
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from domainvl.data.rejects import UnreadableImage

Matrix = NDArray[np.float64]
Box = tuple[slice, slice, slice]

LPS_TO_RAS: Matrix = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM and ITK count x to the left and y to the back."""

_WORLD = ("RL", "AP", "SI")
_SPACING = (0.05, 20.0)
_SHEAR = 0.01
"""Largest cosine between two axes. Half a degree bends a volume of 300 mm by less than 3 mm; scanners tilt further."""


def _still() -> NDArray[np.int64]:
    return np.eye(4, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels with their place in the patient. It never holds who the patient is.

    Attributes:
        voxels: Hounsfield units, int16 or float32 `[D, H, W]`; often a view of the file's array.
        world: The affine of the file, `[4, 4]`.
        turn: Whole numbers `[4, 4]` from indices of `voxels` to indices of the file. Turning an axis twice gives
            the identity exactly, which adding up millimetres would not.
        facts: What the file says about the scan, from a list of allowed tags.
    """

    voxels: NDArray[np.int16] | NDArray[np.float32] = field(repr=False)
    world: Matrix = field(repr=False)
    turn: NDArray[np.int64] = field(default_factory=_still, repr=False)
    facts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def affine(self) -> Matrix:
        """From indices of `voxels` to millimetres, `[4, 4]`."""
        return self.world @ self.turn

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between slices, rows and columns."""
        return spacing_of(self.affine)

    @property
    def orientation(self) -> str:
        """Where columns, rows and slices grow to, for example `RAS`; the nearest one of an oblique volume."""
        return orientation_of(self.affine)

    def oriented(self, code: str) -> Volume:
        """The same volume with its axes exchanged and turned over to fit `code`: a view, no voxel is computed."""
        now = _axes(self.orientation)
        wanted = _axes(code)
        step = np.zeros((4, 4), dtype=np.int64)
        step[3, 3] = 1
        order, flips = [0, 0, 0], [slice(None)] * 3
        for new, (direction, sign) in enumerate(wanted):
            old = next(axis for axis, (other, _) in enumerate(now) if other == direction)
            order[2 - new] = 2 - old
            if now[old][1] == sign:
                step[old, new] = 1
            else:
                step[old, new] = -1
                step[old, 3] = self.voxels.shape[2 - old] - 1
                flips[2 - new] = slice(None, None, -1)
        return replace(self, voxels=self.voxels.transpose(order)[tuple(flips)], turn=self.turn @ step)

    def cut(self, box: Box) -> Volume:
        """The part inside a box of slices, rows and columns: a view."""
        step = _still()
        step[:3, 3] = [part.indices(length)[0] for part, length in zip(box, self.voxels.shape, strict=True)][::-1]
        return replace(self, voxels=self.voxels[box], turn=self.turn @ step)


def spacing_of(affine: Matrix) -> tuple[float, float, float]:
    """Lengths of an affine's steps along slices, rows and columns."""
    column, row, piece = (float(length) for length in np.linalg.norm(affine[:3, :3], axis=0))
    return piece, row, column


def orientation_of(affine: Matrix) -> str:
    """The code whose directions fit an affine best, all three axes judged together."""
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    best = max(permutations(range(3)), key=lambda order: sum(abs(unit[order[axis], axis]) for axis in range(3)))
    return "".join(_WORLD[best[axis]][int(unit[best[axis], axis] < 0)] for axis in range(3))


def check_orientation(code: str, owner: str) -> None:
    """Raise unless `code` names one direction of each pair."""
    if len(code) != 3 or {pair for pair in _WORLD for letter in code if letter in pair} != set(_WORLD):
        raise ValueError(
            f"{owner}: orientation {code!r} is none; give one of R and L, one of A and P and one of S and I, in any "
            "order, for example RAS"
        )


def check_affine(affine: Matrix, shape: tuple[int, ...]) -> None:
    """Raise UnreadableImage for an affine that puts voxels nowhere, or that is sheared."""
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise UnreadableImage("the affine is broken: it holds values that are not finite")
    lengths = spacing_of(affine)
    if min(lengths) == 0 or abs(np.linalg.det(affine[:3, :3] / np.array(lengths[::-1]))) < 0.1:
        raise UnreadableImage("the affine is broken: an axis has no length, or two axes lie in one another")
    low, high = _SPACING
    if not all(low <= length <= high for length in lengths):
        named = " x ".join(f"{length:.4g}" for length in lengths)
        raise UnreadableImage(
            f"the affine is broken: voxels of {named} mm (slice, row, column); {low:g} to {high:g} is plausible. If "
            "the header says metres or micrometres it has to be mended"
        )
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosine = max(abs(float(unit[:, one] @ unit[:, other])) for one, other in ((0, 1), (0, 2), (1, 2)))
    if cosine > _SHEAR:
        tilt = 90 - np.degrees(np.arccos(cosine))
        raise UnreadableImage(
            f"its axes are {tilt:.1f} degrees off a right angle (gantry tilt or a sheared affine); "
            "straighten the volume first"
        )
    if len(shape) != 3 or min(shape) < 1:
        raise UnreadableImage(f"it has the shape {shape}, a volume has three axes")


def _axes(code: str) -> list[tuple[int, int]]:
    """World axis and sign of every letter."""
    found = []
    for letter in code:
        axis = next(number for number, pair in enumerate(_WORLD) if letter in pair)
        found.append((axis, _WORLD[axis].index(letter)))
    return found
