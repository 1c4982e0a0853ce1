"""How what a record names becomes a tensor: a picture here, a volume, a bag of features or a window elsewhere.

A decoder has two halves. `read` runs where files are read, in threads and worker processes, and gives what is cheap to
store, to keep and to send; `finish` runs on the device that trains and makes of it what the tower takes.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from domainvl.data.manifest import Record
from domainvl.data.preset import Preset

Reader = Callable[[Path], Image.Image | Tensor]
"""File to picture; raises UnreadableImage. A function of a module, because worker processes get it by name."""


class Decoder(ABC):
    """Base of all decoders. They are sent to worker processes, so they hold settings and no open files.

    Attributes:
        pictures: Whether a record is a picture `[3, S, S]`, which can be compared with others by its looks.
    """

    pictures: bool = False

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of what `read` gives, the same for all records; a `Preset`'s is `[3, S, S]`."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of what `read` gives."""
        return torch.uint8

    @property
    @abstractmethod
    def digest(self) -> str:
        """A hash over every setting that changes what `read` or `finish` gives."""

    @abstractmethod
    def read(self, record: Record, root: Path) -> Tensor:
        """What a record shows, of `shape` and `dtype`; UnreadableImage with the reason when there is nothing to show.

        Errors of the file system (OSError) may pass; they are listed as rejects, too.

        Args:
            record: Which file, and which part of it.
            root: Folder that the record's path is relative to.
        """

    @abstractmethod
    def finish(self, batch: Tensor) -> Tensor:
        """What the tower takes, float32, on the batch's device.

        Args:
            batch: What `read` gave, stacked, `[B, *shape]`; float where it was augmented.
        """

    def finished(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A batch that the task takes: its `image` finished, and whatever else a decoder's batches hold."""
        return {**batch, "image": self.finish(batch["image"])}

    def bytes(self) -> int:
        """Memory that one record takes."""
        return prod(self.shape) * self.dtype.itemsize


class PictureDecoder(Decoder):
    """2D pictures, prepared as a checkpoint asks for it.

    Args:
        preset: How a picture becomes pixels `[3, S, S]`.
        reader: How a file becomes a picture.
    """

    pictures = True

    def __init__(self, preset: Preset, reader: Reader) -> None:
        self.preset = preset
        self.reader = reader

    @property
    def shape(self) -> tuple[int, ...]:
        """`[3, S, S]`."""
        return (3, self.preset.size, self.preset.size)

    @property
    def digest(self) -> str:
        """The preset's, and the reader's name."""
        name = f"{self.reader.__module__}.{getattr(self.reader, '__qualname__', type(self.reader).__qualname__)}"
        return hashlib.sha256(f"{self.preset.digest} {name}".encode()).hexdigest()[:12]

    def read(self, record: Record, root: Path) -> Tensor:
        """uint8 pixels `[3, S, S]`."""
        return self.preset.pixels(self.reader(root / record.path))

    def finish(self, batch: Tensor) -> Tensor:
        """Pixels `[B, 3, S, S]` in 0..255 to what the tower takes."""
        return self.preset.normalise(batch)


class PixelMemory:
    """What was read before, for a process that prepares the same images again and again.

    Args:
        gib: Most that is kept; what comes later is read from its file every time.
    """

    def __init__(self, gib: float) -> None:
        self._left = int(gib * 2**30)
        self._kept: dict[tuple[Path, str, str], Tensor] = {}

    def read(self, decoder: Decoder, record: Record, root: Path) -> Tensor:
        """What `decoder.read` gives, or gave."""
        key = (root, record.key, decoder.digest)
        found = self._kept.get(key)
        if found is None:
            found = decoder.read(record, root)
            if self._left >= found.nbytes:
                self._left -= found.nbytes
                self._kept[key] = found
        return found


_memory: PixelMemory | None = None


def remember(gib: float | None) -> None:
    """Let this process keep up to `gib` GiB of what decoders read from now on; None forgets it."""
    global _memory
    _memory = None if gib is None else PixelMemory(gib)


def decoded(decoder: Decoder, record: Record, root: Path) -> Tensor:
    """What a decoder reads, from the memory of this process where it has one."""
    found = decoder.read(record, root) if _memory is None else _memory.read(decoder, record, root)
    if (tuple(found.shape), found.dtype) != (tuple(decoder.shape), decoder.dtype):
        # Copied into the tensor of a whole split it would be stretched over its row without a word.
        raise TypeError(
            f"{type(decoder).__name__}.read gave {found.dtype} {tuple(found.shape)}, its shape and dtype promise "
            f"{decoder.dtype} {tuple(decoder.shape)}"
        )
    return found
