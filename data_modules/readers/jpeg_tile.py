"""JPEG tiles of a TIFF by TurboJPEG: at their size or a fraction of it, and never a damaged one.

libjpeg takes a stream that is cut, or has other bytes in its middle, for a picture: it warns and paints the rest grey.
Every warning is an error here, which costs nothing, for the decoder counts them anyway.
"""

from __future__ import annotations

import struct

import numpy as np

from data_modules.readers.slide import Pixels

_START, _END = b"\xff\xd8", b"\xff\xd9"
SCALE = 8
"""JPEG's blocks have so many pixels along a side; down to one of them is decoded."""


def jpeg_head(tables: bytes | None, ycbcr: bool) -> bytes:
    """What belongs in front of every tile: the colours that TIFF states, and the tables that tiles share.

    A stream says by Adobe's marker what its colours are, where TIFF has a tag. Tables are a stream without a picture,
    and their end would be taken for the picture's.
    """
    adobe = struct.pack(">2sH5sHHHB", b"\xff\xee", 14, b"Adobe", 100, 0, 0, ycbcr)
    return _START + adobe + (b"" if tables is None else tables.removeprefix(_START).removesuffix(_END))


def jpeg_pixels(head: bytes, data: bytes, scale: int, out: Pixels) -> None:
    """Decode a tile.

    Args:
        head: See `jpeg_head`.
        data: The tile as it lies in the file.
        scale: 1, 2, 4 or 8: so many pixels along a side become one.
        out: Where it is written, `[H, W, 3]`.

    Raises:
        ValueError: It is damaged, or of another size.
    """
    import simplejpeg

    height, width, _ = out.shape
    direct = out if out.flags.c_contiguous else None
    found = simplejpeg.decode_jpeg(
        head + data[_start(data) :], min_height=height, min_width=width, min_factor=scale, buffer=direct
    )
    if found.shape != out.shape:
        raise ValueError(f"it has {found.shape[1]} by {found.shape[0]} pixels in place of {width} by {height}")
    if direct is None:
        np.copyto(out, found)


def _start(data: bytes) -> int:
    """Where a stream begins behind what applications say of themselves and of colours: here TIFF's tag holds."""
    if not data.startswith(_START):
        raise ValueError("its beginning is missing")
    at = len(_START)
    while data[at : at + 1] == b"\xff" and b"\xe0" <= data[at + 1 : at + 2] <= b"\xef":
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at
