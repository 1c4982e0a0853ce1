"""Features of the tiles of a slide in one HDF5 file; the layouts of CLAM and TRIDENT.

Ours is TRIDENT's and more: `features` (what the image tower pools, before its projection) and `coords`, beside them
`projected` (in the space that texts share), so that one file serves attention pooling and comparison with words. Arrays
are contiguous float16, which is read fifteen times faster than float32 in rows of one. Attributes say which encoder,
which preprocessing and which tiles they are of; a file of others is refused by name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from domainvl.data.rejects import UnreadableImage

if TYPE_CHECKING:
    import h5py

_VERSION = 1


@dataclass(frozen=True)
class Geometry:
    """What a tile is on its slide.

    Attributes:
        mpp_level0: Microns per pixel of the slide.
        mpp: Microns per pixel of the tile.
        size: Pixels along its side.
        overlap: Pixels that it shares with the next.
        width: Of the slide, in pixels of level 0.
        height: Of the slide, in pixels of level 0.
    """

    mpp_level0: float
    mpp: float
    size: int
    overlap: int
    width: int
    height: int

    @property
    def side(self) -> float:
        """A tile's side in pixels of level 0, not rounded."""
        return self.size * self.mpp / self.mpp_level0

    def attributes(self) -> dict[str, float | int]:
        """TRIDENT's names, and the exact numbers behind its magnifications."""
        return {
            "patch_size": self.size,
            "patch_size_level0": round(self.side),
            "level0_magnification": round(10 / self.mpp_level0),
            "target_magnification": round(10 / self.mpp),
            "overlap": self.overlap,
            "level0_width": self.width,
            "level0_height": self.height,
            "mpp_level0": self.mpp_level0,
            "target_mpp": self.mpp,
        }

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Geometry | None:
        """From what a file says; None where it says too little (CLAM, TRIDENT)."""
        names = ("mpp_level0", "target_mpp", "patch_size", "overlap", "level0_width", "level0_height")
        if any(name not in attributes for name in names):
            return None
        exact, size = [float(attributes[name]) for name in names[:2]], [int(attributes[name]) for name in names[2:]]
        return cls(exact[0], exact[1], size[0], size[1], size[2], size[3])


@dataclass(frozen=True)
class Places:
    """The tiles of a slide.

    Attributes:
        at: Left upper corners, x and y at level 0, `[N, 2]`.
        geometry: What a tile is; None where its file does not say.
    """

    at: NDArray[np.int64]
    geometry: Geometry | None


@dataclass(frozen=True)
class Maker:
    """Who made features, and of what.

    Attributes:
        encoder: Name of the model, for people.
        encoder_sha: Hash of the model.
        preset_sha: Hash of its preprocessing.
        plan_sha: Hash of the tile plan.
    """

    encoder: str
    encoder_sha: str
    preset_sha: str
    plan_sha: str

    @classmethod
    def of(cls, kind: str, name: str, weights: str, preset: str, plan: str) -> Maker:
        """The untouched model that a `BackboneSpec` names, and the tile plan's digest."""
        model = hashlib.sha256(json.dumps([kind, weights]).encode()).hexdigest()[:12]
        return cls(name, model, preset, plan)

    def difference(self, file: Mapping[str, Any]) -> str:
        """In what way a file's features are of something else; empty when they are not."""
        parts = (
            ("encoder", "encoder_sha", self.encoder_sha),
            ("preprocessing", "preprocess_sha", self.preset_sha),
            ("tile plan", "plan_sha", self.plan_sha),
        )
        for what, name, own in parts:
            there = str(file.get(name, ""))
            if there != own:
                whose = f"{file.get('encoder', 'an unnamed encoder')} ({there or 'no hash'})"
                wanted = f"{self.encoder} ({own})"
                if what != "encoder":
                    whose, wanted = there or "no hash", own
                return f"its features are of another {what}: {whose}, wanted is {wanted}; embed the slide anew"
        return ""


@dataclass(frozen=True)
class TileFeatures:
    """What a file holds.

    Attributes:
        deep: Before the projection, `[N, W]`; None where the file has only projected ones.
        joint: In the space that texts share, `[N, D]`; None in files of CLAM and TRIDENT.
        places: Where the tiles lie.
        damaged: Tiles that could not be read and are left out.
    """

    deep: NDArray[Any] = field(repr=False)
    joint: NDArray[Any] | None = field(repr=False)
    places: Places = field(repr=False)
    damaged: int = 0


def read_features(path: Path, maker: Maker | None) -> TileFeatures:
    """Read a file of ours, of CLAM or of TRIDENT.

    Args:
        path: The file.
        maker: Who must have made it; None takes files that do not say.

    Raises:
        UnreadableImage: It is damaged, empty, or of another encoder, preprocessing or tile plan.
    """
    with _opened(path) as file:
        if maker is not None and (difference := maker.difference(file.attrs)):
            raise UnreadableImage(difference)
        arrays = {name: _rows(file, name) for name in ("features", "projected", "coords")}
        coords = arrays["coords"]
        if arrays["features"] is None or coords is None:
            raise UnreadableImage(
                f"the HDF5 file has no features and coords; it holds {', '.join(sorted(file)[:5]) or 'nothing'}"
            )
        lengths = {len(array) for array in arrays.values() if array is not None}
        if len(lengths) != 1 or coords.shape[1] != 2:
            raise UnreadableImage(f"its features and coords do not fit each other: {sorted(lengths)} rows")
        places = Places(coords.astype(np.int64), Geometry.of(file["coords"].attrs))
        found = TileFeatures(arrays["features"], arrays["projected"], places, int(file.attrs.get("damaged", 0)))
    if not len(found.deep):
        raise UnreadableImage("no tile has enough tissue")
    return found


def damaged_tiles(path: Path, maker: Maker, source: str) -> int | None:
    """Damaged tiles of a slide whose features are there; None where they are not, or are of something else."""
    if not path.exists():
        return None
    try:
        with _opened(path) as file:
            same = file.attrs.get("source") == source and not maker.difference(file.attrs)
            return int(file.attrs["damaged"]) if same else None
    except UnreadableImage:
        return None


class FeatureWriter:
    """Writes a file row by row, and in one move: before `finish` there is nothing under its name.

    Two writers of one file at a time are not meant to be; whoever has several processes locks it.

    Args:
        path: The file.
        places: The tiles, in the order of rows.
        maker: Who makes it.
        source: What tells the slide's file from an earlier one of its name.
    """

    def __init__(self, path: Path, places: Places, maker: Maker, source: str) -> None:
        self.path, self.places, self.maker, self.source = path, places, maker, source
        path.parent.mkdir(parents=True, exist_ok=True)
        # One name for all: what a killed process left is written over.
        self._draft = path.with_name(f".{path.name}.draft")
        self._kept: list[int] = []
        self._file: h5py.File | None = None

    @property
    def rows(self) -> int:
        """Rows that were added."""
        return len(self._kept)

    def add(self, rows: NDArray[np.int64], arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Append features of tiles.

        Args:
            rows: Which tiles, `[B]`.
            arrays: `features` and `projected`, `[B, *]`.
        """
        import h5py

        if self._file is None:
            self._file = h5py.File(self._draft, "w")
            for name, values in arrays.items():
                self._file.create_dataset(name, (len(self.places.at), values.shape[1]), np.float16)
        start = len(self._kept)
        for name, values in arrays.items():
            with np.errstate(over="ignore"):
                half = values.astype(np.float16)
            if not np.isfinite(half).all():
                raise ValueError(f"FeatureWriter: {name} of {self.maker.encoder} do not fit into 16 bits")
            self._file[name][start : start + len(rows)] = half
        self._kept += rows.tolist()

    def finish(self) -> None:
        """Write what belongs to the rows, cut off those of damaged tiles, and give the file its name."""
        file = self._file
        if file is None:
            raise RuntimeError("FeatureWriter: there is nothing to finish; add rows first")
        damaged = len(self.places.at) - len(self._kept)
        if damaged:
            for name in list(file):
                values = file[name][: len(self._kept)]
                del file[name]
                file[name] = values
        file["coords"] = self.places.at[self._kept]
        _describe(file, self.path, self.places.geometry)
        file["features"].attrs.update({"name": self.path.stem, "encoder": self.maker.encoder})
        file.attrs.update(
            {
                "version": _VERSION,
                "encoder": self.maker.encoder,
                "encoder_sha": self.maker.encoder_sha,
                "preprocess_sha": self.maker.preset_sha,
                "plan_sha": self.maker.plan_sha,
                "source": self.source,
                "damaged": damaged,
                "stain": "none",
            }
        )
        file.close()
        self._file = None
        self._draft.replace(self.path)

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._draft.unlink(missing_ok=True)


def write_places(path: Path, places: Places, plan: str, source: str) -> None:
    """Write the tiles of a slide in TRIDENT's layout, whole or not at all."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with h5py.File(draft, "w") as file:
        file["coords"] = places.at
        _describe(file, path, places.geometry)
        file.attrs.update({"version": _VERSION, "plan_sha": plan, "source": source})
    draft.replace(path)


def read_places(path: Path, plan: str, source: str) -> Places | None:
    """The tiles of a slide; None where nobody planned them, or otherwise, or of another file."""
    if not path.exists():
        return None
    try:
        with _opened(path) as file:
            if file.attrs.get("plan_sha") != plan or file.attrs.get("source") != source:
                return None
            return Places(file["coords"][()], Geometry.of(file["coords"].attrs))
    except UnreadableImage:
        return None


def _describe(file: h5py.File, path: Path, geometry: Geometry | None) -> None:
    attributes: dict[str, Any] = {"name": path.stem, "savetodir": ""}
    file["coords"].attrs.update(attributes if geometry is None else attributes | geometry.attributes())


def _rows(file: h5py.File, name: str) -> NDArray[Any] | None:
    """An array `[N, *]`; both tools sometimes write `[1, N, *]`."""
    if name not in file:
        return None
    values: NDArray[Any] = file[name][()]
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.ndim != 2:
        raise UnreadableImage(f"its {name} have shape {values.shape}; rows of tiles are read")
    return values


def _opened(path: Path) -> h5py.File:
    import h5py

    try:
        return h5py.File(path, "r")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableImage("it is no whole HDF5 file") from error
