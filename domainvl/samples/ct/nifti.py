"""NIfTI-1 files, gzipped: the header as the standard lays it out, both transforms in it, the same bytes every time."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_CODES = {"uint8": 2, "int16": 4, "uint16": 512}
_HEADER, _DATA = 348, 352
_MILLIMETRES = 2
_SCANNER = 1


def save_nifti(path: Path, voxels: NDArray[np.generic], affine: NDArray[np.float64], *, intercept: float = 0.0) -> None:
    """Writes one volume.

    Args:
        path: File to write, ending in .nii.gz.
        voxels: Stored values ``[D, H, W]``: uint8, int16 or uint16.
        affine: Columns, rows and slices to millimetres right, front, up, ``[4, 4]``; its axes at right angles.
        intercept: What has to be added to stored values.
    """
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    turn = affine[:3, :3] / steps
    # A quaternion knows no mirror; the header's first length carries it.
    mirror = -1.0 if np.linalg.det(turn) < 0 else 1.0
    b, c, d = _quaternion(turn * np.array([1, 1, mirror]))
    header = bytearray(_DATA)
    struct.pack_into("<i", header, 0, _HEADER)
    struct.pack_into("<8h", header, 40, 3, *voxels.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, _CODES[voxels.dtype.name], 8 * voxels.dtype.itemsize)
    struct.pack_into("<8f", header, 76, mirror, *steps, 0, 0, 0, 0)
    struct.pack_into("<3f", header, 108, _DATA, 1.0, intercept)
    struct.pack_into("<B", header, 123, _MILLIMETRES)
    header[148:168] = b"domainvl phantom".ljust(20, b"\0")
    struct.pack_into("<2h", header, 252, _SCANNER, _SCANNER)
    struct.pack_into("<6f", header, 256, b, c, d, *affine[:3, 3])
    struct.pack_into("<12f", header, 280, *affine[:3].ravel())
    header[344:348] = b"n+1\0"
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = np.ascontiguousarray(voxels, voxels.dtype.newbyteorder("<"))
    path.write_bytes(gzip.compress(bytes(header) + stored.tobytes(), compresslevel=1, mtime=0))


def _quaternion(turn: NDArray[np.float64]) -> tuple[float, float, float]:
    """The last three numbers of a rotation's unit quaternion, the first not negative."""
    # The eigenvector of this symmetric matrix is the quaternion (Bar-Itzhack), whichever of its numbers is large.
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = turn
    form = np.array(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, yx + xy, zx + xz],
            [xz - zx, yx + xy, yy - xx - zz, zy + yz],
            [yx - xy, zx + xz, zy + yz, zz - xx - yy],
        ]
    )
    first = np.linalg.eigh(form)[1][:, -1]
    first = -first if first[0] < 0 else first
    return float(first[1]), float(first[2]), float(first[3])
