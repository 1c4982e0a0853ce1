"""From a record to the voxels of its volume: prepared once, cut out of the store, finished on the device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from domainvl.data.decoder import Decoder
from domainvl.data.manifest import Record
from domainvl.data.rejects import UnreadableImage
from domainvl.data.volumes.preset import VolumePreset
from domainvl.data.volumes.store import Entry, Job, VolumeStore
from domainvl.data.volumes.volume import Volume

Triple = tuple[int, int, int]


class VolumeSource(Protocol):
    """Where the volumes of a data set come from. It is sent to worker processes."""

    def key(self, record: Record, root: Path) -> str:
        """What tells a record's files, as they are now, from all others; FileNotFoundError when they are not there."""

    def read(self, record: Record, root: Path) -> Volume:
        """The volume of a record; UnreadableImage with the reason when there is none."""


class VolumeDecoder(Decoder):
    """Volumes, prepared on first use and then read from the store.

    Args:
        store: Where prepared volumes lie.
        preset: What the tower takes.
        source: How a record's files become a volume.
        margin: Voxels read on every side beyond what the tower takes, for `Shift` to choose from.
        known: Prepared volumes by file, which are not looked up again; filled on the way.
    """

    def __init__(
        self,
        store: VolumeStore,
        preset: VolumePreset,
        source: VolumeSource,
        margin: Triple = (0, 0, 0),
        known: dict[str, Entry] | None = None,
    ) -> None:
        if min(margin) < 0:
            raise ValueError(f"VolumeDecoder: margin is {margin}; give three numbers from 0, slices first")
        if any(margin) and preset.crop == "resize":
            raise ValueError(f"VolumeDecoder: preset {preset.name!r} resizes the whole volume, so there is no margin")
        self.store = store
        self.preset = preset
        self.source = source
        self.margin = margin
        self._known = {} if known is None else known

    @property
    def shape(self) -> tuple[int, ...]:
        """`[D, H, W]`, margins included."""
        return tuple(length + 2 * more for length, more in zip(self.preset.size, self.margin, strict=True))

    @property
    def dtype(self) -> torch.dtype:
        """Hounsfield units."""
        return torch.int16

    @property
    def digest(self) -> str:
        """Of the stored voxels, of the preset and of the margin."""
        parts = json.dumps([self.store.plan.digest, self.preset.digest, list(self.margin)])
        return hashlib.sha256(parts.encode()).hexdigest()[:12]

    def read(self, record: Record, root: Path) -> Tensor:
        """int16 `[D, H, W]` from the middle of the volume, air around what is too small."""
        entry = self.entry(record, root)
        if self.preset.crop == "resize":
            return self.preset.fit(torch.from_numpy(entry.voxels().copy()))
        return self.window(entry, self.preset.air)

    def entry(self, record: Record, root: Path) -> Entry:
        """The prepared volume of a record; UnreadableImage with the reason when there is none."""
        entry = self._known.get(self._name(record, root))
        if entry is None:
            (made,) = self.prepare([record], root, 1, "preparing a volume")
            if isinstance(made, str):
                raise UnreadableImage(made)
            entry = made
        return entry

    def window(self, entry: Entry, fill: int) -> Tensor:
        """What `read` cuts out of a volume, or of anything on the same grid, int16 `[D, H, W]`."""
        start = [
            _middle(there, wanted) - more
            for there, wanted, more in zip(entry.shape, self.preset.size, self.margin, strict=True)
        ]
        return entry.crop(start, self.shape, fill)

    def finish(self, batch: Tensor) -> Tensor:
        """Hounsfield units `[B, D, H, W]` to windows `[B, C, D, H, W]`, without the margin."""
        return self.preset.normalise(self.middle(batch))

    def middle(self, batch: Tensor) -> Tensor:
        """Volumes `[B, ..., D, H, W]` without the margin, where they still have it."""
        if tuple(batch.shape[-3:]) == tuple(self.preset.size):
            return batch
        return shifted(batch, torch.full((len(batch), 3), 0.5), self.preset.size)

    def prepare(self, records: Sequence[Record], root: Path, workers: int, title: str) -> list[Entry | str]:
        """Make the volumes of a set, all that are missing; for every record its volume or the reason."""
        made = self.store.prepare([self._job(record, root) for record in records], workers, title)
        for record, entry in zip(records, made, strict=True):
            if isinstance(entry, Entry):
                self._known[self._name(record, root)] = entry
        return made

    def _name(self, record: Record, root: Path) -> str:
        # One preset may be followed by another in a process; their volumes are not each other's.
        return f"{self.store.folder}|{root}|{record.key}"

    def _job(self, record: Record, root: Path) -> Job:
        try:
            key = self.source.key(record, root)
        except FileNotFoundError:
            # Its own reason comes up when it is read, and is not kept.
            key = hashlib.sha256(f"missing {record.key}".encode()).hexdigest()[:24]
        return Job(key, lambda: self.source.read(record, root))


@dataclass(frozen=True)
class Shift:
    """Another window of the volume in every epoch; values stay as they are.

    Attributes:
        voxels: How far the window moves to either side, in slices, rows and columns.
        views: Windows of every training volume, drawn once, that take turns over the epochs; None draws anew.
    """

    NUMBERS: ClassVar[int] = 3
    """Random numbers that one volume takes."""

    voxels: Triple = (2, 8, 8)
    views: int | None = None

    def __post_init__(self) -> None:
        if len(self.voxels) != 3 or min(self.voxels) < 0:
            raise ValueError(f"Shift: voxels is {self.voxels}; give three numbers from 0, slices first")
        if self.views is not None and self.views < 1:
            raise ValueError(f"Shift: views is {self.views}; give 1 or more, or null for new ones in every epoch")

    def __call__(self, images: Tensor, draw: Tensor | None = None) -> Tensor:
        """Cut the window out of `[B, ..., D, H, W]` with margins, somewhere else for each volume."""
        draw = torch.rand(images.shape[0], self.NUMBERS) if draw is None else draw
        size = [length - 2 * more for length, more in zip(images.shape[-3:], self.voxels, strict=True)]
        return shifted(images, draw, size)


def shifted(volumes: Tensor, places: Tensor, size: Sequence[int]) -> Tensor:
    """Windows out of volumes.

    Args:
        volumes: `[B, ..., D, H, W]`.
        places: 0 for the first possible place to 1 for the last, `[B, 3]`.
        size: Slices, rows and columns of a window.

    Returns:
        `[B, ..., *size]`.
    """
    if not len(volumes):
        return volumes.new_empty(*volumes.shape[:-3], *size)
    return torch.stack(list(_windows(volumes, places, size)))


def _windows(volumes: Tensor, places: Tensor, size: Sequence[int]) -> Iterator[Tensor]:
    for volume, place in zip(volumes, places.tolist(), strict=True):
        window = volume
        for axis, share, wanted in zip((-3, -2, -1), place, size, strict=True):
            room = volume.shape[axis] - wanted
            if room < 0:
                raise ValueError(f"shifted: a window of {tuple(size)} does not fit into {tuple(volume.shape)}")
            window = window.narrow(axis, min(room, int(share * (room + 1))), wanted)
        yield window


def _middle(there: int, wanted: int) -> int:
    """Where a centre crop begins; negative where air is added, more of it behind when it is odd."""
    return (there - wanted) // 2 if there >= wanted else -((wanted - there) // 2)
