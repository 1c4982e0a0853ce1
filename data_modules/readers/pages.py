"""Many pictures in one file: HDF5 data sets (PatchCamelyon) and .npy stacks (PanNuke), read one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from domainvl.data.decoder import PictureDecoder
from domainvl.data.manifest import Record
from domainvl.data.rejects import UnreadableImage


class PatchFiles(PictureDecoder):
    """Pictures of files, and of stacks `[N, H, W, 3]` where a record's `part` says which of N."""

    def read(self, record: Record, root: Path) -> Tensor:
        """uint8 pixels `[3, S, S]`."""
        if not record.part:
            return super().read(record, root)
        path = root / record.path
        picture = _of_h5(path, record.part[0]) if path.suffix in (".h5", ".hdf5") else _of_npy(path, record.part[0])
        return self.preset.pixels(Image.fromarray(_eight_bit(picture)))


def stacked(path: Path, key: str = "") -> tuple[int, ...]:
    """Shape of a stack, without reading it: of data set `key` of an HDF5 file, or of a .npy file."""
    if path.suffix == ".npy":
        return tuple(np.load(path, mmap_mode="r", allow_pickle=False).shape)
    import h5py

    with h5py.File(path, "r") as file:
        if key not in file:
            raise ValueError(f"{path.name}: there is no data set {key!r}; it holds {', '.join(sorted(file))}")
        return tuple(file[key].shape)


def column(path: Path, key: str) -> np.ndarray:
    """All of a small data set of an HDF5 file."""
    import h5py

    with h5py.File(path, "r") as file:
        if key not in file:
            raise ValueError(f"{path.name}: there is no data set {key!r}; it holds {', '.join(sorted(file))}")
        return np.asarray(file[key])


def _of_h5(path: Path, number: int) -> np.ndarray:
    import h5py

    # Opened for every picture: a handle that was open before a fork reads wrong bytes.
    with h5py.File(path, "r") as file:
        try:
            return np.asarray(file["x"][number])
        except OSError as error:
            raise UnreadableImage(f"picture {number} of the stack is damaged: {error}") from error


def _of_npy(path: Path, number: int) -> np.ndarray:
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)[number])
    except ValueError as error:
        raise UnreadableImage(f"the stack is damaged, or holds objects, which are not opened: {error}") from error


def _eight_bit(picture: np.ndarray) -> np.ndarray:
    """PanNuke's stacks are float64 that hold 0..255."""
    if picture.ndim != 3 or picture.shape[-1] != 3:
        raise UnreadableImage(f"a picture of the stack is {picture.shape}; [H, W, 3] is expected")
    if picture.dtype == np.uint8:
        return picture
    if not np.isfinite(picture).all() or picture.min() < 0 or picture.max() > 255:
        raise UnreadableImage("a picture of the stack holds values outside 0..255")
    return np.rint(picture).astype(np.uint8)
