"""Where tiles lie on the globe: footprints in longitude and latitude, a global grid of equal areas, distances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Floats = np.ndarray

_EARTH = 6_371_008.8
_EQUAL_AREA = "EPSG:6933"
_CELLS = 2**22


@dataclass(frozen=True)
class Footprints:
    """Boxes around tiles, in degrees, `[N]` each.

    Attributes:
        lon: Longitude of the middle.
        lat: Latitude of the middle.
        east: Half of the width.
        north: Half of the height.
    """

    lon: Floats
    lat: Floats
    east: Floats
    north: Floats

    def __len__(self) -> int:
        return len(self.lon)

    def __getitem__(self, rows: np.ndarray) -> Footprints:
        return Footprints(self.lon[rows], self.lat[rows], self.east[rows], self.north[rows])

    def metres(self) -> float:
        """Longest side of any of them."""
        east = np.radians(2 * self.east) * np.cos(np.radians(np.abs(self.lat)))
        return float(_EARTH * max(east.max(), np.radians(2 * self.north).max()))


def footprints(crs: str, transform: tuple[float, ...], boxes: np.ndarray) -> Footprints:
    """Footprints of windows `[N, 4]` (left, top, width, height) of one scene."""
    from rasterio.warp import transform as project

    a, b, c, d, e, f = transform
    # Edges are curves in longitude and latitude: corners alone would cut them.
    u, v = np.array([0, 0.5, 1, 0, 0.5, 1, 0, 0.5, 1]), np.array([0, 0, 0, 0.5, 0.5, 0.5, 1, 1, 1])
    columns = boxes[:, :1] + boxes[:, 2:3] * u
    rows = boxes[:, 1:2] + boxes[:, 3:] * v
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    lon, lat = (np.asarray(one).reshape(x.shape) for one in project(crs, "EPSG:4326", x.ravel(), y.ravel()))
    # A tile over the date line is at 179 and -179 degrees, two degrees wide and not 358.
    lon = lon[:, 4:5] + (lon - lon[:, 4:5] + 180) % 360 - 180
    low, high = lon.min(axis=1), lon.max(axis=1)
    south, north = lat.min(axis=1), lat.max(axis=1)
    return Footprints((low + high) / 2, (south + north) / 2, (high - low) / 2, (north - south) / 2)


def grid_cells(lon: Floats, lat: Floats, size: float) -> np.ndarray:
    """Cells of a global grid of equal areas, `[N, 2]`: the same place is in the same cell, whichever scene shows it.

    Args:
        lon: Longitudes.
        lat: Latitudes.
        size: Side of a cell in metres (on the parallels of 30 degrees; elsewhere a cell of the same area).
    """
    from rasterio.warp import transform as project

    x, y = project("EPSG:4326", _EQUAL_AREA, (lon + 180) % 360 - 180, lat)
    return np.stack([np.floor(np.asarray(x) / size), np.floor(np.asarray(y) / size)], axis=1).astype(np.int64)


def gaps(ours: Footprints, theirs: Footprints, limit: float) -> Floats:
    """Metres from each of our footprints to the nearest of theirs, 0 where they touch, `[N]`; inf beyond `limit`.

    Boxes in degrees hold the tiles, so a gap is never longer than that between the tiles themselves.
    """
    found = np.full(len(ours), np.inf)
    if not len(ours) or not len(theirs):
        return found
    order, other = np.argsort(ours.lat, kind="stable"), theirs[np.argsort(theirs.lat, kind="stable")]
    reach = np.degrees(limit / _EARTH) + ours.north.max() + other.north.max()
    step = max(1, _CELLS // len(other))
    for start in range(0, len(order), step):
        rows = order[start : start + step]
        own = ours[rows]
        near = slice(
            int(np.searchsorted(other.lat, own.lat[0] - reach)), int(np.searchsorted(other.lat, own.lat[-1] + reach))
        )
        if near.start < near.stop:
            found[rows] = _gaps(own, other[near]).min(axis=1)  # type: ignore[index]
    found[found > limit] = np.inf
    return found


def _gaps(ours: Footprints, theirs: Footprints) -> Floats:
    east = np.abs((ours.lon[:, None] - theirs.lon + 180) % 360 - 180) - ours.east[:, None] - theirs.east
    north = np.abs(ours.lat[:, None] - theirs.lat) - ours.north[:, None] - theirs.north
    pole = np.maximum(np.abs(ours.lat[:, None]) + ours.north[:, None], np.abs(theirs.lat) + theirs.north)
    east = np.clip(east, 0, None) * np.cos(np.radians(np.minimum(pole, 90)))
    return _EARTH * np.radians(np.hypot(east, np.clip(north, 0, None)))
