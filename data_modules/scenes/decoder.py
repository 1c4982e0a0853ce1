"""From a record to the picture of its tile: read with its block, stretched by its sensor, fitted to the tower."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_modules.scenes.blocks import Block, blocks, union
from data_modules.scenes.files import CACHE, Box, Header, header, read_window
from data_modules.scenes.plan import Tiling
from data_modules.scenes.sensors import Sensor
from data_modules.scenes.stretch import Ranges
from domainvl.data.decoder import Decoder
from domainvl.data.manifest import Record
from domainvl.data.preset import Preset
from domainvl.data.rejects import UnreadableImage


@dataclass(frozen=True)
class Look:
    """What is read of a scene's pixels.

    Attributes:
        sensor: What its bands are.
        bands: The sensor's names of the three that are read.
        ranges: Their black and white.
        nodata: Value that means "not seen" where files declare none.
        least: Least share of a tile that must have been seen.
    """

    sensor: Sensor
    bands: tuple[str, ...]
    ranges: Ranges
    nodata: float | None
    least: float

    def numbers(self, one: Header) -> list[int]:
        """Numbers of the bands in a file; UnreadableImage when they cannot be told."""
        try:
            return self.sensor.positions(self.bands, one.count, one.descriptions)
        except ValueError as error:
            raise UnreadableImage(str(error)) from error


class SceneDecoder(Decoder):
    """Tiles of scenes, and whole small rasters.

    A record's `part` is the window; without one it is the whole file.

    Args:
        preset: What the tower takes.
        look: What is read.
        reduce: Factor by which tiles are reduced when they are read.
        around: Window that is read with a tile, by scene and tile (`blocks_around`); others are read alone.
    """

    pictures = True

    def __init__(
        self,
        preset: Preset,
        look: Look,
        reduce: int = 1,
        around: Mapping[tuple[str, tuple[int, ...]], Box] | None = None,
    ) -> None:
        self.preset = preset
        self.look = look
        self.reduce = reduce
        self.around = {} if around is None else around
        self._looks_like = hashlib.sha256(json.dumps([asdict(look), reduce], sort_keys=True).encode()).hexdigest()[:12]

    @property
    def shape(self) -> tuple[int, ...]:
        """`[3, S, S]`."""
        return self.preset.shape

    @property
    def digest(self) -> str:
        """Over preset, sensor, bands, ranges and reduction."""
        return hashlib.sha256(f"{self.preset.digest} {self._looks_like}".encode()).hexdigest()[:12]

    def read(self, record: Record, root: Path) -> Tensor:
        """uint8 pixels `[3, S, S]`; what was not seen has the colour that normalises to zero."""
        return self.picture(*self.tile(record, root))

    def picture(self, pixels: np.ndarray, seen: np.ndarray | None) -> Tensor:
        """Stretched pixels `[3, H, W]`, seen at `[H, W]` (None for everywhere), as uint8 `[3, S, S]`."""
        if seen is not None:
            share = float(seen.mean())
            if share == 0:
                raise UnreadableImage("the sensor saw nothing of this tile (all of it is nodata)")
            if share < self.look.least:
                raise UnreadableImage(f"only {share:.0%} of the tile was seen, less than {self.look.least:.0%}")
            grey = np.rint(np.array(self.preset.mean, dtype=np.float32) * 255).astype(np.uint8)
            # Filled before it is resized: zeros would bleed into the edge of what was seen.
            pixels = np.where(seen, pixels, grey[:, None, None])
        tensor = torch.from_numpy(np.ascontiguousarray(pixels))
        return tensor if tensor.shape == self.shape else self.preset.pixels(tensor)

    def tile(self, record: Record, root: Path) -> tuple[np.ndarray, np.ndarray | None]:
        """Stretched pixels `[3, H, W]` and where something was seen, `[H, W]` or None for everywhere."""
        path = root / record.path
        if not record.part and path.is_dir():
            return self._band_files(path)
        if not record.part:
            one = header(path)
            box: Box = (0, 0, one.width, one.height)
            return self.block(path, box).cut(box)
        left, top, width, height = record.part
        box = (left, top, width, height)
        whole = self.around.get((record.path, record.part), box)
        block = blocks.get((self._looks_like, str(path), whole), lambda: self.block(path, whole))
        return block.cut(box)

    def finish(self, batch: Tensor) -> Tensor:
        """Pixels `[B, 3, S, S]` in 0..255 to what the tower takes."""
        return self.preset.normalise(batch)

    def _band_files(self, folder: Path) -> tuple[np.ndarray, np.ndarray | None]:
        """A small raster with one file per band, `..._<band>.tif`; coarse bands get the size of the finest."""
        files = []
        for band in self.look.bands:
            found = sorted(folder.glob(f"*_{band}.tif"))
            if len(found) != 1:
                raise UnreadableImage(f"its folder holds {len(found)} files of band {band}, one is needed")
            files.append(found[0])
        headers = [header(file) for file in files]
        shape = (max(one.height for one in headers), max(one.width for one in headers))
        parts = [
            read_window(file, [1], (0, 0, one.width, one.height), shape, self.look.nodata)
            for file, one in zip(files, headers, strict=True)
        ]
        seen = np.logical_or.reduce([mask for _, mask in parts])
        pixels = self.look.ranges.eight_bit(np.concatenate([values for values, _ in parts]))
        return pixels, None if seen.all() else seen

    def block(self, path: Path, box: Box, cache: int = CACHE) -> Block:
        """A window of a scene, stretched; `cache` is for GDAL."""
        shape = (box[3] // self.reduce, box[2] // self.reduce)
        values, seen = read_window(path, self.look.numbers(header(path)), box, shape, self.look.nodata, cache)
        everywhere = bool(seen.all())
        pixels = self.look.ranges.eight_bit(values)
        return Block(box[0], box[1], self.reduce, pixels, None if everywhere else seen)


def blocks_around(records: Iterable[Record], tiling: Tiling) -> dict[tuple[str, tuple[int, ...]], Box]:
    """The window that each tile is read with: around all of these tiles that are in its block.

    Tiles that are not among the records cost nothing, so a few shots are not read with all their neighbours.
    """
    groups: dict[tuple[str, int, int], list[Record]] = {}
    for record in records:
        if record.part:
            groups.setdefault((record.path, *_block(record.part, tiling)), []).append(record)
    found = {}
    for group in groups.values():
        whole = union([_box(record) for record in group])
        alone = sum(record.part[2] * record.part[3] for record in group)
        if whole[2] % tiling.reduce or whole[3] % tiling.reduce or whole[2] * whole[3] > 2 * alone:
            # Scattered tiles are cheaper one by one; and a reduced block has to begin where its tiles' pixels do.
            continue
        if any((record.part[side] - whole[side]) % tiling.reduce for record in group for side in (0, 1)):
            continue
        for record in group:
            found[record.path, record.part] = whole
    return found


def block_order(records: Sequence[Record], tiling: Tiling) -> list[list[int]]:
    """Positions of records, block by block."""
    groups: dict[tuple[str, int, int], list[int]] = {}
    for position, record in enumerate(records):
        block = _block(record.part, tiling) if record.part else (position, 0)
        groups.setdefault((record.path, *block), []).append(position)
    return list(groups.values())


def _block(part: tuple[int, ...], tiling: Tiling) -> tuple[int, int]:
    side = tiling.stride * tiling.block
    return part[1] // side, part[0] // side


def _box(record: Record) -> Box:
    left, top, width, height = record.part
    return left, top, width, height
