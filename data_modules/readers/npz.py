"""A volume in a .npz archive, without pickle: the array alone, the place from the archive or from the data set."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from data_modules.readers.voxels import check_size, hounsfield
from domainvl.data.rejects import UnreadableImage
from domainvl.data.volumes.volume import Matrix, Volume, check_affine

_AFFINE = "affine"


def read_npz(path: Path, limit: int, affine: Matrix | None = None) -> Volume:
    """One volume `[D, H, W]` in Hounsfield units.

    Args:
        path: The archive. Its volume is the array `ct`, or its only array with three axes.
        limit: Bytes that its voxels may take.
        affine: `[4, 4]`, to millimetres right, front, up; the archive's array `affine` when None.

    Raises:
        UnreadableImage: With a reason.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            shapes = {name.removesuffix(".npy"): _header(archive, name) for name in archive.namelist()}
            volumes = [name for name, (shape, _) in shapes.items() if len(shape) >= 3]
            name = "ct" if "ct" in shapes else volumes[0] if len(volumes) == 1 else None
            if name is None:
                raise UnreadableImage(f"it holds {len(volumes)} arrays of three axes; call the volume 'ct'")
            shape, kind = shapes[name]
            if len(shape) != 3:
                raise UnreadableImage(f"its array {name!r} has the shape {shape}; a volume has three axes")
            if kind.kind not in "iuf":
                raise UnreadableImage(f"its array {name!r} holds {kind}, no numbers")
            check_size(shape, kind.itemsize, limit)
            if affine is None and shapes.get(_AFFINE, ((),))[0] != (4, 4):
                raise UnreadableImage(
                    "no affine is known: neither in the archive (a 4 x 4 array 'affine') nor by the data set"
                )
            stored = _array(archive, name)
            placed = _array(archive, _AFFINE).astype(np.float64) if affine is None else affine
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UnreadableImage(f"it is no whole .npz archive ({type(error).__name__})") from error
    check_affine(placed, stored.shape)
    return Volume(hounsfield(stored, 1.0, 0.0), placed)


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array; numpy's own loader would allocate before anybody can ask."""
    with archive.open(name) as file:
        try:
            version = npy.read_magic(file)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, kind = read(file)
        except ValueError as error:
            raise UnreadableImage("it holds something else than numpy arrays") from error
    if kind.hasobject:
        raise UnreadableImage("it holds pickled Python objects, which are code; have its author save plain arrays")
    return shape, kind


def _array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as file:
        try:
            return npy.read_array(file, allow_pickle=False)
        except ValueError as error:
            raise UnreadableImage(f"its array {name!r} is cut short or damaged") from error
