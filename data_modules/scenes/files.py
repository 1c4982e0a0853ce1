"""Rasters on disk through rasterio: what a file is, and one window of it.

GDAL handles must not cross threads or forks (reads fail with IReadBlock errors), so every thread of every process opens
its own, when it needs it.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from domainvl.data.rejects import UnreadableImage

SUFFIXES = (".tif", ".tiff", ".vrt")
"""Files that count as scenes."""

Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels of the file."""

CACHE = 64 * 2**20
"""Bytes that GDAL may keep of a process's blocks. A block of tiles is read once, so more would only hold memory."""

_MOST_OPEN = 32


class _Handles(threading.local):
    """The open files of one thread."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.open: OrderedDict[str, Any] = OrderedDict()

    def of(self, path: Path) -> Any:
        """The dataset, opened by this thread of this process."""
        if self.process != os.getpid():
            self.__init__()  # type: ignore[misc]
        name = str(path)
        dataset = self.open.get(name)
        if dataset is None:
            dataset = self.open[name] = _opened(path)
            if len(self.open) > _MOST_OPEN:
                self.open.popitem(last=False)[1].close()
        self.open.move_to_end(name)
        return dataset


_handles = _Handles()


def gdal(cache: int = CACHE) -> Any:
    """Settings of GDAL while something is read; the environment variable counts megabytes, this counts bytes."""
    import rasterio

    return rasterio.Env(GDAL_CACHEMAX=cache, GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR")


def _opened(path: Path) -> Any:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

    if not path.exists():
        raise FileNotFoundError(2, "No such file or directory", str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            return rasterio.open(path)
        except RasterioIOError as error:
            raise UnreadableImage("it is no raster that GDAL can open, or it is cut short") from error


@dataclass(frozen=True)
class Header:
    """What a raster file says about itself.

    Attributes:
        width: Columns.
        height: Rows.
        count: Bands.
        dtype: Type of all bands.
        crs: Coordinate system as WKT; empty for none.
        transform: Affine map from column and row to the coordinate system, six numbers.
        descriptions: What bands are called; None where they are not.
        nodata: Value that means "not seen"; None when none is declared.
        block: Rows and columns of a block on disk.
        overviews: Factors of the reduced copies.
    """

    width: int
    height: int
    count: int
    dtype: str
    crs: str
    transform: tuple[float, ...]
    descriptions: tuple[str | None, ...]
    nodata: float | None
    block: tuple[int, int]
    overviews: tuple[int, ...]


def header(path: Path) -> Header:
    """What a file says about itself; UnreadableImage when it is none, or mixes types."""
    with gdal():
        dataset = _handles.of(path)
        types = sorted(set(dataset.dtypes))
        if len(types) > 1:
            raise UnreadableImage(f"its bands have different types, {' and '.join(types)}; write them as one")
        if types[0].startswith("complex"):
            raise UnreadableImage(f"its values are {types[0]}; give amplitudes")
        return Header(
            dataset.width,
            dataset.height,
            dataset.count,
            types[0],
            dataset.crs.to_wkt() if dataset.crs is not None else "",
            tuple(dataset.transform)[:6],
            tuple(dataset.descriptions),
            dataset.nodata,
            tuple(dataset.block_shapes[0]),
            tuple(dataset.overviews(1)),
        )


def read_window(
    path: Path, bands: Sequence[int], box: Box, shape: tuple[int, int], nodata: float | None, cache: int = CACHE
) -> tuple[np.ndarray, np.ndarray]:
    """Values `[C, H, W]` in the file's type, and where they were seen, bool `[H, W]`.

    A smaller `shape` than the box comes from the nearest overview; the mean of the pixels, of those that were seen.

    Args:
        path: The file.
        bands: Numbers of bands, from 1.
        box: What to read; what lies outside the file was not seen.
        shape: Rows and columns to give.
        nodata: Value that means "not seen" where the file declares none.
        cache: Bytes of GDAL's cache.
    """
    from rasterio.enums import MaskFlags, Resampling
    from rasterio.errors import RasterioIOError
    from rasterio.windows import Window

    left, top, width, height = box
    with gdal(cache):
        dataset = _handles.of(path)
        right, bottom = min(left + width, dataset.width), min(top + height, dataset.height)
        x, y = max(left, 0), max(top, 0)
        if right <= x or bottom <= y:
            raise UnreadableImage(f"the window {box} lies outside the raster of {dataset.width} x {dataset.height}")
        whole = (x, y, right - x, bottom - y) == box
        rows, columns = (height, width) if not whole else shape
        if not whole and shape != (height, width):
            raise UnreadableImage(f"the window {box} hangs over the edge, so it cannot be reduced to {shape}")
        declared = dataset.nodata
        # GDAL leaves out of a mean what the file declares; what only the caller knows would be mixed in.
        smooth = declared is not None or nodata is None
        window = Window(x, y, right - x, bottom - y)
        size = shape if whole else (bottom - y, right - x)
        resampling = Resampling.average if smooth else Resampling.nearest
        try:
            values = dataset.read(list(bands), window=window, out_shape=(len(bands), *size), resampling=resampling)
            flags = dataset.mask_flag_enums[bands[0] - 1]
            if MaskFlags.per_dataset in flags:
                seen = dataset.read_masks(bands[0], window=window, out_shape=size) > 0
            else:
                seen = _seen(values, nodata if declared is None else declared)
        except RasterioIOError as error:
            _handles.open.pop(str(path), None)
            raise UnreadableImage("the raster is damaged or cut short: a block cannot be read") from error
    if whole:
        return values, seen
    padded = np.zeros((len(bands), rows, columns), values.dtype)
    there = np.zeros((rows, columns), bool)
    place = (slice(y - top, y - top + size[0]), slice(x - left, x - left + size[1]))
    padded[:, *place], there[place] = values, seen
    return padded, there


def _seen(values: np.ndarray, nodata: float | None) -> np.ndarray:
    """Where at least one band holds a value; NaN in any band means that the pixel was not seen."""
    if values.dtype.kind == "f":
        seen: np.ndarray = np.isfinite(values).all(axis=0)
    else:
        seen = np.ones(values.shape[1:], bool)
    if nodata is None or np.isnan(nodata):
        return seen
    hole = np.array(nodata).astype(values.dtype)
    held = values[0] != hole
    # Most windows were seen everywhere, which one band can tell.
    if not held.all():
        for band in values[1:]:
            held |= band != hole
    return seen & held
