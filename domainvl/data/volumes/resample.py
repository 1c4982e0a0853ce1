"""Volumes on another grid: centre-aligned, separable, one output slice at a time.

The first voxel's centre stays where it is and the axes keep their directions, so the new grid of an oblique volume is
oblique as well. This is the grid of MONAI's `Spacing` (its length formula included) and of SimpleITK's resampler when
the volume is turned to its orientation first; the grid of `interpolate` with a truncated size, which lies a fraction of
a voxel beside it, is not offered.

Own code in place of SimpleITK's resampler for three reasons: ITK cuts fractions off where its output is int16, which
moves every value towards zero by half a unit; it needs the turned volume as a copy; and slice by slice all
intermediate values stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from domainvl.data.volumes.volume import Matrix

Interpolation = Literal["linear", "area"]
"""`linear` between the two nearest centres; `area` averages what a larger voxel covers, which keeps noise from folding
in where thin slices become thick, and is linear along axes that are not made coarser."""


@dataclass(frozen=True, eq=False)
class Taps:
    """One axis: which source voxels make up an output voxel.

    Attributes:
        index: Source positions `[T, N]`.
        weight: Their shares `[T, N]`, float32, which add up to one.
    """

    index: NDArray[np.int64]
    weight: NDArray[np.float32]

    @classmethod
    def of(cls, length: int, step: float, start: int, count: int, kind: Interpolation) -> Taps:
        """Output voxels `start` to `start + count` of an axis.

        Args:
            length: Source voxels.
            step: Source voxels per output voxel.
            start: First output voxel; it may lie in front of the source, where the edge is repeated.
            count: Output voxels.
            kind: How values between centres are made.
        """
        centre = np.clip(np.arange(start, start + count) * step, 0, length - 1)
        if kind == "area" and step > 1:
            left, right = np.clip(centre - step / 2, -0.5, None), np.clip(centre + step / 2, None, length - 0.5)
            first = np.floor(left + 0.5).astype(np.int64)
            index = first + np.arange(ceil(step) + 1)[:, None]
            weight = np.minimum(index + 0.5, right) - np.maximum(index - 0.5, left)
            weight = np.clip(weight, 0, None)
            weight /= weight.sum(axis=0)
        else:
            # A centre that is a whole number up to rounding must not reach for a neighbour in another slab.
            near = np.rint(centre)
            centre = np.where(np.abs(centre - near) < 1e-6, near, centre)
            first = np.floor(centre).astype(np.int64)
            index = np.stack([first, first + 1])
            weight = np.stack([1 - (centre - first), centre - first])
        return cls(np.clip(index, 0, length - 1), weight.astype(np.float32))


def new_length(length: int, spacing: float, target: float) -> int:
    """Voxels that an axis has at another spacing, as MONAI counts them: between first and last centre, rounded."""
    return round((length - 1) * spacing / target) + 1


def rescaled(affine: Matrix, steps: Sequence[float], start: Sequence[int]) -> Matrix:
    """The affine of a grid that has `steps` source voxels per voxel and begins at its voxel `start` (all D, H, W)."""
    grid = np.diag([*reversed([float(step) for step in steps]), 1.0])
    grid[:3, 3] = [step * first for step, first in zip(reversed(steps), reversed(start), strict=True)]
    return affine @ grid


def resampled(voxels: NDArray[Any], taps: Sequence[Taps], clip: tuple[int, int]) -> NDArray[np.int16]:
    """Values at another grid, rounded, int16 `[D, H, W]`.

    Args:
        voxels: `[D, H, W]`; any strides.
        taps: Of slices, rows and columns.
        clip: Range that source values are brought into before they are mixed.
    """
    # The loop runs over what lies furthest apart in memory, whatever the orientation; the result is turned back.
    order = sorted(range(3), key=lambda axis: -abs(voxels.strides[axis]))
    source = voxels.transpose(order)
    slow, rows, columns = (taps[axis] for axis in order)
    result = np.empty((slow.index.shape[1], rows.index.shape[1], columns.index.shape[1]), np.int16)
    for place in range(len(result)):
        result[place] = np.rint(_mixed(_mixed(_blended(source, slow, place, clip), rows, 0), columns, 1))
    return np.ascontiguousarray(result.transpose(np.argsort(order)))


def _blended(source: NDArray[Any], taps: Taps, place: int, clip: tuple[int, int]) -> NDArray[np.float32]:
    """One output slice at the source's rows and columns."""
    total: NDArray[np.float32] | None = None
    for index, weight in zip(taps.index[:, place], taps.weight[:, place], strict=True):
        if weight == 0 and total is not None:
            continue
        piece = source[index].astype(np.float32)
        np.clip(piece, *clip, out=piece)
        if weight != 1:
            piece *= weight
        total = piece if total is None else np.add(total, piece, out=total)
    if total is None:
        raise ValueError("resampled: an axis has no taps")
    return total


def _mixed(plane: NDArray[np.float32], taps: Taps, axis: int) -> NDArray[np.float32]:
    length = taps.index.shape[1]
    if length == plane.shape[axis] and (taps.weight[0] == 1).all() and (taps.index[0] == np.arange(length)).all():
        return plane
    total: NDArray[np.float32] | None = None
    for index, weight in zip(taps.index, taps.weight, strict=True):
        piece = plane.take(index, axis=axis, mode="clip")
        piece *= weight[:, None] if axis == 0 else weight
        total = piece if total is None else np.add(total, piece, out=total)
    if total is None:
        raise ValueError("resampled: an axis has no taps")
    return total
