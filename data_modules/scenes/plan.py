"""Which tiles there are: made once from the headers of the scenes, saved, and asked no geometry again."""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from data_modules.scenes.files import Box, Header, header
from data_modules.scenes.geometry import Footprints, footprints
from domainvl.data.rejects import Reject, UnreadableImage


@dataclass(frozen=True)
class Tiling:
    """How scenes are cut where nobody says which tiles there are.

    Attributes:
        size: Side of a tile in pixels of the scene.
        overlap: Pixels that neighbours share.
        jitter: Pixels that a tile is moved at most in either direction, within its block, drawn once; for training.
        reduce: Factor by which tiles are reduced when they are read, from overviews where there are any.
        block: Tiles along the side of a block, which is read from disk as one.
        least: Least share of a tile that must have been seen.
    """

    size: int = 256
    overlap: int = 0
    jitter: int = 0
    reduce: int = 1
    block: int = 4
    least: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 <= self.overlap < self.size or self.jitter < 0 or self.block < 1:
            raise ValueError(
                f"Tiling: size is {self.size}, overlap {self.overlap}, jitter {self.jitter}, block {self.block}; give "
                "a size from 1, an overlap below it, a jitter from 0 and a block from 1"
            )
        if self.reduce < 1 or self.size % self.reduce:
            raise ValueError(f"Tiling: reduce is {self.reduce}; give 1 or a divisor of the size {self.size}")
        if not 0 <= self.least <= 1:
            raise ValueError(f"Tiling: least is {self.least}; give a share from 0 to 1")

    @property
    def stride(self) -> int:
        """Pixels from one tile to the next."""
        return self.size - self.overlap

    def starts(self, length: int) -> np.ndarray:
        """Where tiles begin along a side; the last one is moved back, so that it ends with the scene."""
        if length <= self.size:
            return np.zeros(1, np.int64)
        regular = np.arange(0, length - self.size, self.stride, dtype=np.int64)
        return np.append(regular, length - self.size)

    def moved(self, starts: np.ndarray, by: np.ndarray, length: int) -> np.ndarray:
        """Tiles moved along a side, but not out of their block: that is what is read from disk."""
        side = self.stride * self.block
        first = starts // side * side
        last = np.minimum(first + side + self.overlap, length) - self.size
        moved: np.ndarray = np.clip(starts + by, first, np.maximum(last, first.clip(max=max(0, length - self.size))))
        return moved


@dataclass(frozen=True)
class ScenePlan:
    """Tiles of scenes, block by block.

    Attributes:
        scenes: Files, relative to the root.
        headers: What they say about themselves.
        scene: Number of the file, `[N]`.
        boxes: Left, top, width and height, `[N, 4]`.
        places: Where they lie on the globe.
    """

    scenes: tuple[str, ...]
    headers: tuple[Header, ...]
    scene: np.ndarray
    boxes: np.ndarray
    places: Footprints

    def __len__(self) -> int:
        return len(self.scene)

    def __getitem__(self, rows: np.ndarray) -> ScenePlan:
        """Some of the tiles."""
        return replace(self, scene=self.scene[rows], boxes=self.boxes[rows], places=self.places[rows])

    def box(self, row: int) -> Box:
        """One tile's window."""
        left, top, width, height = self.boxes[row].tolist()
        return left, top, width, height

    @property
    def digest(self) -> str:
        """Twelve hex digits over scenes and tiles."""
        digest = hashlib.sha256(json.dumps([self.scenes, [asdict(one) for one in self.headers]]).encode())
        digest.update(self.scene.tobytes() + self.boxes.tobytes())
        return digest.hexdigest()[:12]

    def save(self, path: Path) -> None:
        """Write an npz file, whole or not at all."""
        about = json.dumps({"scenes": self.scenes, "headers": [asdict(one) for one in self.headers]})
        buffer = io.BytesIO()
        places = {one.name: getattr(self.places, one.name) for one in fields(Footprints)}
        np.savez_compressed(buffer, about=np.array(about), scene=self.scene, boxes=self.boxes, **places)
        draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        draft.write_bytes(buffer.getvalue())
        os.replace(draft, path)

    @classmethod
    def load(cls, path: Path) -> ScenePlan:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as held:
            about = json.loads(str(held["about"]))
            places = Footprints(*(held[one.name] for one in fields(Footprints)))
            headers = tuple(_header(one) for one in about["headers"])
            return cls(tuple(about["scenes"]), headers, held["scene"], held["boxes"], places)


def _header(held: Mapping[str, object]) -> Header:
    return Header(**{name: tuple(value) if isinstance(value, list) else value for name, value in held.items()})  # type: ignore[arg-type]


def read_headers(root: Path, scenes: Sequence[str]) -> tuple[dict[str, Header], list[Reject]]:
    """Headers of the scenes that can be placed on the globe, and the reasons of the others."""
    found: dict[str, Header] = {}
    rejected = []
    for scene in scenes:
        try:
            one = header(root / scene)
        except FileNotFoundError:
            rejected.append(Reject(0, scene, "the file does not exist"))
            continue
        except UnreadableImage as error:
            rejected.append(Reject(0, scene, str(error)))
            continue
        if not one.crs:
            rejected.append(Reject(0, scene, "it has no coordinate system (CRS), so nothing says where its tiles lie"))
        elif one.transform == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0):
            rejected.append(Reject(0, scene, "it has a coordinate system and no geotransform"))
        else:
            found[scene] = one
    return found, rejected


def grid_plan(headers: Mapping[str, Header], tiling: Tiling, seed: int = 0) -> ScenePlan:
    """All tiles of scenes.

    Args:
        headers: By scene.
        tiling: How they are cut.
        seed: Of the jitter.
    """
    boxes = []
    for number, one in enumerate(headers.values()):
        tops, lefts = tiling.starts(one.height), tiling.starts(one.width)
        top, left = (side.ravel() for side in np.meshgrid(tops, lefts, indexing="ij"))
        if tiling.jitter:
            draw = np.random.default_rng([seed, number]).integers(-tiling.jitter, tiling.jitter + 1, (2, len(top)))
            top, left = tiling.moved(top, draw[0], one.height), tiling.moved(left, draw[1], one.width)
        side = np.full(len(top), tiling.size, np.int64)
        boxes.append(np.stack([left, top, side, side], axis=1))
        if tiling.reduce >= 4 and not one.overviews:
            warnings.warn(
                f"tiles are reduced {tiling.reduce}-fold and a scene has no overviews, so all of its pixels are read; "
                "add them with gdaladdo",
                stacklevel=2,
            )
    return made_plan(headers, boxes, tiling)


def made_plan(headers: Mapping[str, Header], boxes: Sequence[np.ndarray], tiling: Tiling) -> ScenePlan:
    """A plan of windows `[N, 4]` of each scene, block by block."""
    number = np.repeat(np.arange(len(boxes)), [len(one) for one in boxes])
    whole = np.concatenate([*boxes, np.empty((0, 4), np.int64)])
    rows, columns = block_of(whole, tiling).T
    order = np.lexsort((whole[:, 0], whole[:, 1], columns, rows, number))
    places = [
        footprints(one.crs, one.transform, box) for one, box in zip(headers.values(), boxes, strict=True) if len(box)
    ]
    joined = Footprints(
        *(np.concatenate([np.empty(0), *(getattr(one, side.name) for one in places)]) for side in fields(Footprints))
    )
    return ScenePlan(tuple(headers), tuple(headers.values()), number, whole, joined)[order]


def block_of(boxes: np.ndarray, tiling: Tiling) -> np.ndarray:
    """Row and column of the block that holds a tile, `[N, 2]`."""
    return boxes[:, 1::-1] // (tiling.stride * tiling.block)
