"""Tiled TIFF and SVS by tifffile, simplejpeg and imagecodecs: whole tiles, a fifth of OpenSlide's cost or less.

Only what decodes to the same bits as in OpenSlide is read here: Aperio and plain pyramids with RGB tiles. Aperio's JPEG
2000 in YCbCr (33003) needs a colour transform of its own and is left to OpenSlide, as are all other formats.

Where 2, 4 or 8 pixels become one, JPEG is decoded at that scale: libjpeg's smaller inverse transforms give the mean of
the pixels from the coefficients that it depends on (the rounding differs, and colours stored at half the resolution are
taken as they are stored). JPEG 2000 is not: its coarser levels are wavelet bands, which are no means.
"""

from __future__ import annotations

import math
import os
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, local
from typing import TYPE_CHECKING, Any

import numpy as np

from data_modules.readers.jpeg_tile import SCALE, jpeg_head, jpeg_pixels
from data_modules.readers.slide import WHITE, Level, Pixels, SlideReader, checked_mpp, shrunk
from domainvl.data.rejects import UnreadableImage

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

_JPEG, _JPEG2000 = 7, (33005, 34712)
_PLAIN = (1, 5, 8, 32946)
"""Nothing, LZW and Deflate."""
_END = b"\xff\xd9"
"""Of a JPEG 2000 stream."""
_RGB, _YCBCR = 2, 6
_UNITS = {2: 25400.0, 3: 10000.0}
"""Microns in a TIFF's inch and centimetre."""
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MEMORY = 48 << 20
"""Bytes of decoded tiles that a reader keeps: a row of a wide slide."""
_SHAPE = 0.02
"""How far the sides of a level may differ from the slide's; a label has another shape."""


@dataclass(frozen=True)
class TiledLevel:
    """Where the tiles of one level lie, and how they are packed.

    Attributes:
        width: Pixels of the level from left to right.
        height: Pixels of the level from top to bottom.
        tile: Width and height of a tile.
        offsets: Where each tile begins in the file.
        counts: Its bytes; 0 where the scanner stored none.
        compression: TIFF's number.
        head: What belongs in front of its JPEG tiles; empty for others.
        page: Number of its page, for what only tifffile can unpack.
    """

    width: int
    height: int
    tile: tuple[int, int]
    offsets: tuple[int, ...] = field(repr=False)
    counts: tuple[int, ...] = field(repr=False)
    compression: int
    head: bytes = field(repr=False)
    page: int

    @property
    def columns(self) -> int:
        """Tiles from left to right."""
        return -(-self.width // self.tile[0])

    def scale(self, shrink: int) -> int:
        """How many times smaller than stored a tile can be decoded when it is to be shrunk so many times."""
        return math.gcd(shrink, SCALE, *self.tile) if self.compression == _JPEG else 1


def is_tiff(path: Path) -> bool:
    """Whether a file begins like a TIFF, whatever it is called."""
    with path.open("rb") as file:
        return file.read(4) in _MAGIC


class TiffSlide(SlideReader):
    """A tiled pyramid.

    Args:
        path: The file.
        mpp: Microns per pixel of level 0; what the file says when None.
        exact: Average all pixels of a JPEG, also where it could be decoded at a fraction of its size.

    Raises:
        UnreadableImage: It is damaged, or has no resolution.
        Unfit: It has to be read by OpenSlide.
    """

    def __init__(self, path: Path, mpp: float | None = None, exact: bool = False) -> None:
        import tifffile

        try:
            with tifffile.TiffFile(path) as tiff:
                self._tiled = _levels(tiff)
                stated = _mpp(tiff) if mpp is None else mpp
        except (tifffile.TiffFileError, ValueError, IndexError, KeyError, TypeError) as error:
            if isinstance(error, UnreadableImage | Unfit):
                raise
            raise UnreadableImage(f"the TIFF is damaged: {str(error)[:80]}") from error
        _check_whole(self._tiled, path.stat().st_size)
        first = self._tiled[0]
        levels = tuple(
            Level(one.width, one.height, (first.width / one.width + first.height / one.height) / 2)
            for one in self._tiled
        )
        super().__init__(path, levels, stated)
        self._exact = exact
        self._forget()

    def _forget(self) -> None:
        self._process = 0
        self._descriptor = -1
        self._pages: dict[int, TiffPage] = {}
        self._lock = Lock()
        self._room = local()
        self._kept: OrderedDict[tuple[int, int, int], Pixels] = OrderedDict()
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes get where tiles lie and open the file themselves."""
        return {name: self.__dict__[name] for name in ("path", "levels", "mpp", "_tiled", "_exact")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """See `__getstate__`."""
        self.__dict__.update(state)
        self._forget()

    def __del__(self) -> None:
        if getattr(self, "_process", 0) == os.getpid():
            os.close(self._descriptor)

    def region(
        self, level: int, x: int, y: int, width: int, height: int, shrink: int = 1, out: Pixels | None = None
    ) -> Pixels:
        """See `SlideReader.region`."""
        tiled = self._tiled[level]
        wide, high = tiled.tile
        if shrink > 1 and any(length % shrink for length in (x, y, wide, high)):
            return shrunk(self.region(level, x, y, width, height), shrink, out)
        # From here on everything is counted in pixels of the result.
        left, top, wide, high = x // shrink, y // shrink, wide // shrink, high // shrink
        right, bottom = left + width // shrink, top + height // shrink
        result = np.empty((bottom - top, right - left, 3), np.uint8) if out is None else out
        aligned = not (left % wide or top % high)
        inside = left >= 0 and top >= 0 and right <= tiled.width // shrink and bottom <= tiled.height // shrink
        if inside and aligned and shrink == 1 and (right - left, bottom - top) == tiled.tile:
            # What is asked for most goes where it is wanted without a copy.
            return self._shrunk(level, y // high * tiled.columns + x // wide, 1, result)
        if not inside:
            result[:] = WHITE
            right, bottom = min(right, -(-tiled.width // shrink)), min(bottom, -(-tiled.height // shrink))
        for row in range(max(0, top) // high, -(-bottom // high)):
            for column in range(max(0, left) // wide, -(-right // wide)):
                number = row * tiled.columns + column
                x0, x1 = max(left, column * wide), min(right, (column + 1) * wide)
                y0, y1 = max(top, row * high), min(bottom, (row + 1) * high)
                target = result[y0 - top : y1 - top, x0 - left : x1 - left]
                if aligned and target.shape[:2] == (high, wide):
                    self._shrunk(level, number, shrink, target)
                    continue
                pixels = self._tile(level, number, shrink, keep=not aligned)
                target[:] = pixels[y0 - row * high : y1 - row * high, x0 - column * wide : x1 - column * wide]
        return result

    def _tile(self, level: int, number: int, shrink: int, keep: bool) -> Pixels:
        """A decoded tile; one that is not kept is valid until this thread asks for the next."""
        key = (level, number, shrink)
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        wide, high = (length // shrink for length in self._tiled[level].tile)
        room = np.empty((high, wide, 3), np.uint8) if keep else self._scratch(level, shrink)
        pixels = self._shrunk(level, number, shrink, room)
        if keep:
            with self._lock:
                self._bytes += 0 if key in self._kept else pixels.nbytes
                self._kept[key] = pixels
                while self._bytes > _MEMORY:
                    self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return pixels

    def _scratch(self, level: int, shrink: int) -> Pixels:
        """Room for a tile: memory that is new costs a third of what decoding does."""
        wide, high = (length // shrink for length in self._tiled[level].tile)
        found: Pixels | None = getattr(self._room, "pixels", None)
        if found is None or found.shape != (high, wide, 3):
            found = self._room.pixels = np.empty((high, wide, 3), np.uint8)
        return found

    def _shrunk(self, level: int, number: int, shrink: int, out: Pixels) -> Pixels:
        """A tile with every square of `shrink` pixels averaged, by the decoder as far as it can."""
        tiled = self._tiled[level]
        scale = 1 if self._exact else tiled.scale(shrink)
        if scale == shrink:
            return self._decoded(tiled, number, scale, out)
        return shrunk(self._decoded(tiled, number, scale, self._scratch(level, scale)), shrink // scale, out)

    def _decoded(self, tiled: TiledLevel, number: int, scale: int, out: Pixels) -> Pixels:
        if not tiled.counts[number]:
            out[:] = WHITE
            return out
        data = self._packed(tiled.offsets[number], tiled.counts[number])
        try:
            if tiled.compression == _JPEG:
                jpeg_pixels(tiled.head, data, scale, out)
            elif tiled.compression in _JPEG2000:
                _jpeg2000_pixels(data, out)
            else:
                self._plain(tiled, data, number, out)
        except (RuntimeError, ValueError, TypeError, OverflowError) as error:
            # imagecodecs' errors are RuntimeErrors.
            raise UnreadableImage(f"a tile is damaged: {str(error)[:60]}") from error
        return out

    def _plain(self, tiled: TiledLevel, data: bytes, number: int, out: Pixels) -> None:
        out[:] = WHITE
        pixels = self._page(tiled.page).decode(data, number)[0]
        # At the lower and right edges tifffile gives the part that lies on the slide.
        if pixels is not None:
            out[: pixels.shape[1], : pixels.shape[2]] = pixels[0]

    def _packed(self, offset: int, count: int) -> bytes:
        """Bytes of the file, by a handle of this process; reading at an offset, threads do not disturb each other."""
        if self._process != os.getpid():
            with self._lock:
                if self._process != os.getpid():
                    self._descriptor = os.open(self.path, os.O_RDONLY)
                    self._process = os.getpid()
        return os.pread(self._descriptor, count, offset)

    def _page(self, number: int) -> TiffPage:
        import tifffile

        with self._lock:
            if number not in self._pages:
                with tifffile.TiffFile(self.path) as tiff:
                    page: Any = tiff.pages[number]
                    page.decode  # noqa: B018  made once, while the file is open
                    self._pages[number] = page
            return self._pages[number]


def _jpeg2000_pixels(data: bytes, out: Pixels) -> None:
    import imagecodecs

    # OpenJPEG decodes what was overwritten by zeros without a word; padding behind the end is no damage.
    if not data.rstrip(b"\0").endswith(_END):
        raise ValueError("its end is missing")
    # imagecodecs writes to contiguous memory alone.
    if out.flags.c_contiguous:
        imagecodecs.jpeg2k_decode(data, out=out)
    else:
        np.copyto(out, imagecodecs.jpeg2k_decode(data))


class Unfit(Exception):
    """A TIFF that only OpenSlide reads as it should be read."""


def _levels(tiff: TiffFile) -> tuple[TiledLevel, ...]:
    """The pages that show the whole slide; label, macro and thumbnail pages are none of them and never read."""
    first: Any = tiff.pages[0]
    if not first.is_tiled:
        raise Unfit
    _check_colours(first)
    found: list[TiledLevel] = []
    for number, page in enumerate(tiff.pages):
        page = page.aspage()
        if not page.is_tiled or page.samplesperpixel != 3 or page.bitspersample != 8:
            continue
        if found and (page.imagewidth >= found[-1].width or not _same_shape(page, first)):
            continue
        known = page.compression in (_JPEG, *_JPEG2000, *_PLAIN) and page.planarconfig == 1
        if not known or (page.photometric == _YCBCR and page.compression != _JPEG):
            raise Unfit
        found.append(
            TiledLevel(
                page.imagewidth,
                page.imagelength,
                (page.tilewidth, page.tilelength),
                tuple(page.dataoffsets),
                tuple(page.databytecounts),
                int(page.compression),
                jpeg_head(page.jpegtables, page.photometric == _YCBCR) if page.compression == _JPEG else b"",
                number,
            )
        )
    return tuple(found)


def _same_shape(page: Any, first: Any) -> bool:
    across, down = first.imagewidth / page.imagewidth, first.imagelength / page.imagelength
    # Short sides of coarse levels are rounded by a pixel.
    return abs(across / down - 1) < _SHAPE + 1 / min(page.imagewidth, page.imagelength)


def _check_colours(page: Any) -> None:
    if page.samplesperpixel != 3 or page.bitspersample != 8 or page.photometric not in (_RGB, _YCBCR):
        raise UnreadableImage(
            f"it is not RGB: {page.samplesperpixel} channel(s) of {page.bitspersample} bits; slides have three of 8"
        )


def _check_whole(levels: tuple[TiledLevel, ...], size: int) -> None:
    for number, level in enumerate(levels):
        rows = -(-level.height // level.tile[1])
        if len(level.offsets) != rows * level.columns or len(level.counts) != len(level.offsets):
            raise UnreadableImage(f"level {number} has {len(level.offsets)} tiles and needs {rows * level.columns}")
        ends = np.array(level.offsets) + np.array(level.counts)
        lost = int((ends > size).sum())
        if lost:
            raise UnreadableImage(f"the file is truncated: {lost} tiles of level {number} lie behind its end")


def _mpp(tiff: TiffFile) -> float:
    page: Any = tiff.pages[0]
    text = str(page.description or "")
    if text.startswith("Aperio"):
        # Its resolution tags say what a printer should do.
        found = re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", text)
        seen = re.search(r"\|\s*AppMag\s*=\s*([0-9.]+)", text)
        value = float(found[1]) if found else None
        return checked_mpp(value, value, f" (AppMag is {seen[1]}, which says too little)" if seen else "")
    unit = _UNITS.get(int(getattr(page.tags.get("ResolutionUnit"), "value", 0)))
    across, down = (getattr(page.tags.get(name), "value", (0, 0)) for name in ("XResolution", "YResolution"))
    if unit is None or not all((*across, *down)):
        return checked_mpp(None, None)
    return checked_mpp(unit * across[1] / across[0], unit * down[1] / down[0])
