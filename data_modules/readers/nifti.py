"""NIfTI 1 and 2, one file, plain or gzipped.

Read here and not by a library, because what they do with a gzip file that was cut short is what must not happen:
SimpleITK fills the rest with zeros and says nothing. Voxels of a plain file are mapped, not read.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from data_modules.readers.voxels import Header, check_size, hounsfield, placed
from domainvl.data.rejects import UnreadableImage
from domainvl.data.volumes.volume import Matrix, Volume, check_affine, orientation_of, spacing_of

_TYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
}
_PIECE = 1 << 20
_LONGEST_HEADER = 1 << 24
_UNITS = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""Millimetres per unit; a header that names none means millimetres."""


@dataclass(frozen=True)
class _Fields:
    """The fields of a header that are used, whichever version it is."""

    order: str
    shape: tuple[int, ...]
    code: int
    offset: int
    slope: float
    intercept: float
    affine: Matrix | None


def read_nifti(path: Path, limit: int, header: Header | None = None) -> Volume:
    """One volume.

    Args:
        path: A .nii or .nii.gz file.
        limit: Bytes that its voxels may take.
        header: Geometry and scale to use in place of the file's own; its own scale is kept if it has one.

    Raises:
        UnreadableImage: With a reason.
    """
    with path.open("rb") as file:
        start = file.read(2)
        file.seek(0)
        if not start:
            raise UnreadableImage("the file is empty (0 bytes)")
        source: BinaryIO | _Inflated = _Inflated(file) if start == b"\x1f\x8b" else file
        fields = _fields(source.read(540))
        shape = _spatial(fields.shape)
        if fields.code not in _TYPES:
            raise UnreadableImage(
                f"voxels of NIfTI type {fields.code} (colour, complex or wider than 64 bits) are no CT"
            )
        kind = np.dtype(fields.order + _TYPES[fields.code])
        check_size(shape, kind.itemsize, limit)
        size = int(np.prod(shape)) * kind.itemsize
        if isinstance(source, _Inflated):
            stored: NDArray[Any] = source.rest(fields.offset, size).view(kind).reshape(shape)
        else:
            there = path.stat().st_size
            if there < fields.offset + size:
                raise UnreadableImage(
                    f"the file is cut short: it has {there} bytes, its header promises {fields.offset + size}"
                )
            stored = np.asarray(np.memmap(path, kind, "r", fields.offset, shape))
    if not kind.isnative:
        stored = stored.astype(kind.newbyteorder("="))
    slope, intercept = fields.slope, fields.intercept
    if header is not None and (slope, intercept) == (1.0, 0.0):
        slope, intercept = header.slope, header.intercept
    affine = fields.affine if header is None else header.affine
    if affine is None:
        raise UnreadableImage(
            "the affine is broken: neither the sform nor the qform is set, so left is not known from right"
        )
    check_affine(affine, shape)
    return Volume(hounsfield(stored, slope, intercept), affine)


class _Inflated:
    """A gzip stream that is read from its beginning and checked to its end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._start = b""
        self._tail = b""
        self._stream = zlib.decompressobj(31)

    def read(self, count: int) -> bytes:
        """The first bytes; they stay in `rest`."""
        while len(self._start) < count:
            piece = self._piece()
            if not piece:
                break
            self._start += piece
        return self._start[:count]

    def rest(self, offset: int, size: int) -> NDArray[np.uint8]:
        """`size` bytes behind the first `offset`, after the checksum at the end has been compared."""
        result = np.empty(size, np.uint8)
        while len(self._start) < offset and (piece := self._piece()):
            self._start += piece
        piece = self._start[offset:]
        filled = 0
        while piece:
            used = min(len(piece), size - filled)
            result[filled : filled + used] = np.frombuffer(piece, np.uint8, used)
            filled += used
            piece = self._piece()
        if filled < size:
            raise UnreadableImage(f"the gzip stream ends after {filled} of the {size} bytes that the header promises")
        return result

    def _piece(self) -> bytes:
        """The next bytes, empty at a whole end; never much at once, however well it is packed."""
        while True:
            if self._stream.eof:
                left = self._stream.unused_data or self._file.read(_PIECE)
                if not left.strip(b"\0"):
                    return b""
                # Several gzip streams one after the other are one file.
                self._stream, self._tail = zlib.decompressobj(31), left
            packed = self._tail or self._file.read(_PIECE)
            try:
                piece = self._stream.decompress(packed, 4 * _PIECE)
            except zlib.error as error:
                raise UnreadableImage(f"the gzip stream is damaged ({error})") from error
            self._tail = self._stream.unconsumed_tail
            if piece:
                return piece
            if not packed and not self._stream.eof:
                raise UnreadableImage("the gzip stream is cut short")


def _fields(raw: bytes) -> _Fields:
    for order in "<>":
        if len(raw) < 348:
            break
        (size,) = struct.unpack_from(order + "i", raw)
        if size == 348 and raw[344:347] in (b"n+1", b"ni1"):
            return _first(raw, order)
        if size == 540 and len(raw) == 540 and raw[4:7] in (b"n+2", b"ni2"):
            return _second(raw, order)
    raise UnreadableImage(f"it is no NIfTI file (or its header is cut short): it starts with {raw[:8]!r}")


def _first(raw: bytes, order: str) -> _Fields:
    def get(kind: str, place: int) -> tuple[Any, ...]:
        return struct.unpack_from(order + kind, raw, place)

    return _made(
        order,
        raw[344:347] == b"n+1",
        get("8h", 40),
        get("h", 70)[0],
        get("8f", 76),
        get("f", 108)[0],
        get("2f", 112),
        raw[123],
        get("2h", 252),
        get("6f", 256),
        get("12f", 280),
    )


def _second(raw: bytes, order: str) -> _Fields:
    def get(kind: str, place: int) -> tuple[Any, ...]:
        return struct.unpack_from(order + kind, raw, place)

    return _made(
        order,
        raw[4:7] == b"n+2",
        get("8q", 16),
        get("h", 12)[0],
        get("8d", 104),
        get("q", 168)[0],
        get("2d", 176),
        get("i", 500)[0],
        get("2i", 344),
        get("6d", 352),
        get("12d", 400),
    )


def _made(
    order: str,
    single: bool,
    dim: tuple[int, ...],
    code: int,
    pixdim: tuple[float, ...],
    offset: float,
    scale: tuple[float, float],
    units: int,
    codes: tuple[int, int],
    quaternion: tuple[float, ...],
    rows: tuple[float, ...],
) -> _Fields:
    if not single:
        raise UnreadableImage("its voxels lie in a second file (.img); convert it to one .nii")
    if not 1 <= dim[0] <= 7 or any(length < 1 for length in dim[1 : 1 + dim[0]]):
        raise UnreadableImage(f"the header is damaged: its dimensions are {dim}")
    if not np.isfinite(offset) or not 0 <= offset <= _LONGEST_HEADER:
        raise UnreadableImage(f"the header is damaged: voxels at byte {offset:g}")
    slope, intercept = (float(value) for value in scale)
    if slope == 0 or not np.isfinite(slope):
        slope, intercept = 1.0, 0.0
    elif not np.isfinite(intercept):
        raise UnreadableImage(f"the header is damaged: its intercept is {intercept}")
    millimetres = _UNITS.get(units & 7)
    if millimetres is None:
        raise UnreadableImage(f"the header is damaged: unit {units & 7} is none of length")
    shape = tuple(int(length) for length in dim[1 : 1 + dim[0]])
    return _Fields(
        order, shape, code, int(offset), slope, intercept, _affine(codes, pixdim, quaternion, rows, millimetres)
    )


def _affine(
    codes: tuple[int, int],
    pixdim: tuple[float, ...],
    quaternion: tuple[float, ...],
    rows: tuple[float, ...],
    unit: float,
) -> Matrix | None:
    """The sform, else the qform, else None. Where both are set they have to agree on directions and voxel size."""
    scale = np.diag([unit, unit, unit, 1.0])
    sform = np.vstack([np.array(rows, np.float64).reshape(3, 4), [0, 0, 0, 1]]) if codes[1] > 0 else None
    qform = _rotated(pixdim, quaternion) if codes[0] > 0 else None
    if sform is None or qform is None:
        chosen = qform if sform is None else sform
        return None if chosen is None else scale @ chosen
    for name, matrix in (("sform", sform), ("qform", qform)):
        if not np.isfinite(matrix).all() or min(spacing_of(matrix)) == 0:
            raise UnreadableImage(f"the affine is broken: the {name} is set and puts voxels nowhere")
    if orientation_of(sform) != orientation_of(qform) or not np.allclose(
        spacing_of(sform), spacing_of(qform), rtol=0.01
    ):
        raise UnreadableImage(
            f"sform ({orientation_of(sform)}) and qform ({orientation_of(qform)}) disagree about directions or voxel "
            "size; programs differ in which they follow, so one of them has to be mended"
        )
    return scale @ sform


def _rotated(pixdim: tuple[float, ...], quaternion: tuple[float, ...]) -> Matrix:
    b, c, d, *origin = (float(value) for value in quaternion)
    rest = 1 - (b * b + c * c + d * d)
    if rest < -1e-4:
        raise UnreadableImage("the affine is broken: the qform's quaternion is longer than one")
    a = np.sqrt(max(0.0, rest))
    # A quaternion of a half turn may be longer than one by rounding.
    a, b, c, d = np.array([a, b, c, d]) / np.sqrt(a * a + b * b + c * c + d * d)
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    hand = -1.0 if pixdim[0] < 0 else 1.0
    return placed(turn * np.array([pixdim[1], pixdim[2], hand * pixdim[3]]), np.array(origin))


def _spatial(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """`[D, H, W]` of a header's dimensions, which run the other way."""
    if len(shape) > 3 and max(shape[3:]) > 1:
        raise UnreadableImage(
            f"it has {len(shape)} dimensions ({' x '.join(map(str, shape))}); give one volume per file"
        )
    padded = (*shape[:3], 1, 1)[:3]
    return padded[2], padded[1], padded[0]
