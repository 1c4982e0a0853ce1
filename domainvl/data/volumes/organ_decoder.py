"""Volumes together with the organs in them: label maps are prepared beside their volumes and cut by the same window."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from domainvl.data.decoder import Decoder
from domainvl.data.manifest import Record
from domainvl.data.rejects import UnreadableImage
from domainvl.data.volumes.decoder import VolumeDecoder
from domainvl.data.volumes.organ_maps import OrganSource
from domainvl.data.volumes.store import Entry, Job, VolumeStore


class OrganDecoder(Decoder):
    """Volumes and organ numbers, one behind the other, so that whatever moves a window moves both.

    A record without a label map has no organs. A label map that is named and cannot be used is a reason to reject the
    record: whoever names one means it.

    Args:
        volumes: Reads the volumes.
        store: Where prepared label maps lie.
        organs: Where they come from.
        known: Prepared label maps by volume, which are not looked up again; filled on the way.
    """

    def __init__(
        self, volumes: VolumeDecoder, store: VolumeStore, organs: OrganSource, known: dict[str, Entry] | None = None
    ) -> None:
        self.volumes, self.store, self.organs = volumes, store, organs
        self._known = {} if known is None else known

    @property
    def shape(self) -> tuple[int, ...]:
        """`[2, D, H, W]`: Hounsfield units and organ numbers, margins included."""
        return (2, *self.volumes.shape)

    @property
    def dtype(self) -> torch.dtype:
        """That of the volumes."""
        return self.volumes.dtype

    @property
    def digest(self) -> str:
        """Of the volumes, of the label maps and of what is asked for."""
        parts = json.dumps([self.volumes.digest, self.store.plan.digest, list(self.organs.names), self.organs.whole])
        return hashlib.sha256(parts.encode()).hexdigest()[:12]

    def read(self, record: Record, root: Path) -> Tensor:
        """int16 `[2, D, H, W]`."""
        voxels = self.volumes.read(record, root)
        if not self.organs.has(record, root):
            return torch.stack([voxels, torch.zeros_like(voxels)])
        volume = self.volumes.entry(record, root)
        labels = self._known.get(self._name(volume))
        if labels is None:
            (made,) = self._prepared([record], [volume], root, 1, "preparing a label map")
            if isinstance(made, str):
                raise UnreadableImage(made)
            labels = made
        return torch.stack([voxels, self._window(labels)])

    def finish(self, batch: Tensor) -> Tensor:
        """What `VolumeDecoder.finish` makes of the Hounsfield units."""
        return self.volumes.finish(batch[:, 0])

    def finished(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with `image` finished, and `organs` uint8 `[B, D, H, W]`."""
        organs = self.volumes.middle(batch["image"][:, 1]).to(torch.uint8)
        return {**super().finished(batch), "organs": without_cut(organs) if self.organs.whole else organs}

    def prepare(self, records: Sequence[Record], root: Path, workers: int, title: str) -> list[Entry | str]:
        """Make volumes and label maps; for every record its volume, or the reason why one of the two is not there."""
        made = self.volumes.prepare(records, root, workers, title)
        mapped = [
            (place, record, volume)
            for place, (record, volume) in enumerate(zip(records, made, strict=True))
            if isinstance(volume, Entry) and self.organs.has(record, root)
        ]
        if mapped:
            places, those, volumes = zip(*mapped, strict=True)
            labels = self._prepared(those, volumes, root, workers, f"preparing {len(those)} label maps")
            for place, label in zip(places, labels, strict=True):
                if isinstance(label, str):
                    made[place] = label
        return made

    def _prepared(
        self, records: Sequence[Record], volumes: Sequence[Entry], root: Path, workers: int, title: str
    ) -> list[Entry | str]:
        jobs = [self._job(record, volume, root) for record, volume in zip(records, volumes, strict=True)]
        made = self.store.prepare(jobs, workers, title)
        found: list[Entry | str] = []
        for volume, entry in zip(volumes, made, strict=True):
            if isinstance(entry, Entry):
                self._known[self._name(volume)] = entry
            found.append(entry if isinstance(entry, Entry) else f"label map: {entry}")
        return found

    def _name(self, volume: Entry) -> str:
        return f"{self.store.folder}|{volume.path}"

    def _job(self, record: Record, volume: Entry, root: Path) -> Job:
        try:
            own = self.organs.key(record, root)
        except FileNotFoundError:
            own = f"missing {record.key}"
        # The plan of the volume says on which grid, its digest which voxels.
        key = hashlib.sha256(json.dumps([own, str(volume.path), volume.digest]).encode()).hexdigest()[:24]
        return Job(key, lambda: self.organs.read(record, root, volume))

    def _window(self, labels: Entry) -> Tensor:
        preset = self.volumes.preset
        if preset.crop == "resize":
            whole = torch.from_numpy(labels.voxels().copy()).to(torch.float32)
            return F.interpolate(whole[None, None], size=preset.size, mode="nearest-exact")[0, 0].to(torch.int16)
        return self.volumes.window(labels, 0)


def without_cut(organs: Tensor) -> Tensor:
    """Organ numbers `[B, D, H, W]` with 0 in place of every organ that reaches the border of its window."""
    cut = torch.zeros(len(organs), 256, dtype=torch.bool, device=organs.device)
    for axis in (1, 2, 3):
        for end in (0, -1):
            cut.scatter_(1, organs.select(axis, end).flatten(1).long(), True)
    cut[:, 0] = True
    return organs.masked_fill(cut.gather(1, organs.flatten(1).long()).view_as(organs), 0)
