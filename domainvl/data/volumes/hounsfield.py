"""What a CT's numbers say about themselves: are they Hounsfield units, where is the body, are there lungs.

All on a coarse copy of a few millimetres, because nothing here needs more. Arrays are `[D, H, W]` in an orientation
whose slices run from feet to head or back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from domainvl.data.rejects import UnreadableImage
from domainvl.data.volumes.volume import Box, Volume

_STEP = 4.0
_AIR = -500
_FILLING = -1500
"""What scanners write outside their field of view lies below; nothing real does."""
_BLOB = 2.0
"""Millilitres of the smallest air-filled space that counts."""


@dataclass(frozen=True)
class Anatomy:
    """Boxes in voxels of the full volume.

    Attributes:
        body: The largest thing that is not air; None when there is none.
        lungs: Air inside the body; None when there is none.
        air: Millilitres of air inside the body.
    """

    body: Box | None
    lungs: Box | None
    air: float


def check_finite(voxels: NDArray[np.int16] | NDArray[np.float32]) -> None:
    """Raise UnreadableImage for values that are no numbers."""
    if voxels.dtype.kind != "f":
        return
    bad = sum(int(np.count_nonzero(~np.isfinite(piece))) for piece in voxels)
    if bad:
        raise UnreadableImage(f"{bad} of {voxels.size} voxels are not finite (NaN or infinite)")


def check_hounsfield(voxels: NDArray[np.int16] | NDArray[np.float32]) -> None:
    """Raise UnreadableImage unless there is air where air should be, and soft tissue around zero.

    Catches stored values whose intercept was never applied, Hounsfield units to which it was applied again, and
    values that were windowed or scaled.
    """
    sample = voxels[tuple(slice(None, None, max(1, length // 64)) for length in voxels.shape)].astype(np.float32)
    low, high = float(sample.min()), float(sample.max())
    if low == high:
        raise UnreadableImage(f"all voxels are {low:g}")
    if high - low < 300:
        raise UnreadableImage(
            f"its values lie between {low:g} and {high:g}; Hounsfield units of a body span well over 300, so these "
            "were scaled or windowed"
        )
    real = sample[sample > _FILLING]
    tissue = float(np.mean((real > -200) & (real < 250))) if real.size else 0.0
    air = float(np.mean(sample < _AIR))
    if low > -200:
        shifted = float(np.mean((sample > 824) & (sample < 1324)))
        cause = " (soft tissue near 1024: the intercept was not applied)" if shifted > 0.1 else ""
        raise UnreadableImage(f"no voxel is below {low:g}; air is -1000 in Hounsfield units, so these are none{cause}")
    if tissue < 0.03:
        twice = float(np.mean((sample > -1200) & (sample < -774)))
        # Twice rescaled water lies at -1024 and twice rescaled air, down at -2000, looks like filling.
        cause = (
            " (much lies near -1000 and below -1500: slope and intercept seem to be applied to Hounsfield units again)"
            if twice > 0.05 and float(np.mean(sample < _FILLING)) > 0.05
            else ""
        )
        raise UnreadableImage(
            f"only {100 * tissue:.1f} % of its voxels lie between -200 and 250, where soft tissue is in Hounsfield "
            f"units{cause}"
        )
    if air == 0:
        raise UnreadableImage(
            f"no voxel is below {_AIR}; there is air in and around a body, so these are no Hounsfield units"
        )


def anatomy(volume: Volume) -> Anatomy:
    """Find body and lungs."""
    body, inside, steps = _found(volume)
    if not body.any():
        return Anatomy(None, None, 0.0)
    box = _box(body, steps, volume.voxels.shape)
    air = float(np.count_nonzero(inside)) * _millilitres(volume, steps)
    return Anatomy(box, _box(inside, steps, volume.voxels.shape) if inside.any() else None, air)


def regions(volume: Volume) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which voxels are lungs (air inside the body) and which are body without them, `[D, H, W]` each."""
    body, inside, steps = _found(volume)
    places = [
        np.rint(np.arange(length) / step).astype(np.int64).clip(0, there - 1)
        for length, step, there in zip(volume.voxels.shape, steps, body.shape, strict=True)
    ]
    return inside[np.ix_(*places)], (body & ~inside)[np.ix_(*places)]


def _found(volume: Volume) -> tuple[NDArray[np.bool_], NDArray[np.bool_], list[int]]:
    """Body and enclosed air on a coarse copy, and how many voxels lie from one of its voxels to the next."""
    import SimpleITK as sitk

    steps = [max(1, round(_STEP / spacing)) for spacing in volume.spacing]
    coarse = volume.voxels[tuple(slice(None, None, step) for step in steps)]
    dense = sitk.GetImageFromArray((coarse > _AIR).astype(np.uint8))
    # A table is thin: it goes before the largest part is looked for, so that it cannot hang on to the body.
    opened = sitk.BinaryMorphologicalOpening(dense, [1, 1, 0])
    largest = sitk.RelabelComponent(sitk.ConnectedComponent(opened), sortByObjectSize=True) == 1
    body = sitk.GetArrayFromImage(largest).astype(bool)
    if not body.any():
        return body, np.zeros_like(body), steps
    return body, _enclosed(coarse, max(1, int(_BLOB / _millilitres(volume, steps)))), steps


def _millilitres(volume: Volume, steps: list[int]) -> float:
    return float(np.prod([step * length for step, length in zip(steps, volume.spacing, strict=True)])) / 1000


def _enclosed(coarse: NDArray[np.int16] | NDArray[np.float32], least: int) -> NDArray[np.bool_]:
    """Air that no way within the volume joins to the air around.

    Lungs are cut at the first and last slice, so only the four sides are open.
    """
    import SimpleITK as sitk

    air = np.pad(coarse < _AIR, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    parts = sitk.ConnectedComponent(sitk.GetImageFromArray(air.astype(np.uint8)))
    sizes = sitk.GetArrayViewFromImage(parts)
    counts = np.bincount(sizes.ravel())
    keep = counts >= least
    keep[0] = keep[sizes[0, 0, 0]] = False
    return keep[sizes][:, 1:-1, 1:-1]


def _box(mask: NDArray[np.bool_], steps: list[int], shape: tuple[int, ...]) -> Box:
    sides = []
    for axis in range(3):
        hits = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        # One coarse voxel on either side may belong to it as well.
        low, high = (int(hits[0]) - 1) * steps[axis], (int(hits[-1]) + 2) * steps[axis]
        sides.append(slice(max(0, low), min(shape[axis], high)))
    return sides[0], sides[1], sides[2]
