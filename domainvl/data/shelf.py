"""Rows on disk that are found by a key, of a few shapes, growing: what a `Store` is for things that come in any order.

    <folder>/index.bin             32 bytes per row: key, kind, slot
    <folder>/<kind>-<segment>/     a `Store` of the rows of one kind

A kind is a number that says how long a row is. Several processes may read and write at once: a slot is given out under
a lock, and whoever fills it writes the same bytes.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from domainvl.data.store import Fields, Store, row_bytes

Key = bytes
"""16 bytes, of a hash."""

_ENTRY = np.dtype([("key", "V16"), ("kind", "<i8"), ("slot", "<i8")])
_SEGMENT = 16 * 2**20
_IDLE = 24 * 3600.0


class Shelf:
    """Rows by key.

    Args:
        folder: Where it lies; folders beside it are other shelves, which share the budget.
        fields: Shapes and types of a row of some kind.
        budget: Bytes that all shelves may take; a new row that does not fit is not kept.
    """

    def __init__(self, folder: Path, fields: Callable[[int], Fields], budget: int) -> None:
        self._folder, self._fields, self._budget = folder, fields, budget
        folder.mkdir(parents=True, exist_ok=True)
        self._index = folder / "index.bin"
        self._index.touch()
        # A file that is not deleted with the shelf.
        self._lock = FileLock(folder.parent / f"{folder.name}.lock")
        self._places: dict[Key, tuple[int, int]] = {}
        self._counts: dict[int, int] = {}
        self._known = 0
        self._stores: dict[tuple[int, int], Store] = {}

    def read(self, keys: Sequence[Key]) -> dict[Key, dict[str, Tensor]]:
        """The rows that are there."""
        if any(key not in self._places for key in keys):
            self._catch_up()
        found: dict[Key, dict[str, Tensor]] = {}
        for place, group in self._grouped(key for key in keys if key in self._places).items():
            store = self._store(*place)
            slots = torch.tensor([self._slot(key) for key in group])
            there = ~store.missing(slots)
            rows = store.read(slots)
            for number, key in enumerate(group):
                if there[number]:
                    found[key] = {name: values[number] for name, values in rows.items()}
        return found

    def write(self, kind: int, rows: Mapping[Key, Mapping[str, Tensor]]) -> None:
        """Keep rows of one kind, as far as there is room."""
        with self._lock:
            self._catch_up()
            new = [key for key in rows if key not in self._places]
            self._give_out(kind, new)
        for place, group in self._grouped(key for key in rows if key in self._places).items():
            slots = torch.tensor([self._slot(key) for key in group])
            names = rows[group[0]]
            self._store(*place).write(slots, {name: torch.stack([rows[key][name] for key in group]) for name in names})

    def _give_out(self, kind: int, keys: Sequence[Key]) -> None:
        """Slots for new keys; called under the lock."""
        first = self._counts.get(kind, 0)
        entries = np.zeros(len(keys), _ENTRY)
        size = segments = 0
        for key in keys:
            slot = first + size
            if slot % self._rows(kind) == 0:
                segments += 1
                if not self._room(kind, segments):
                    break
            entries[size] = (np.void(key), kind, slot)
            size += 1
        with self._index.open("ab") as file:
            file.write(entries[:size].tobytes())
        self._catch_up()

    def _catch_up(self) -> None:
        """Read what was added to the index; a process that was killed may have left half an entry."""
        size = self._index.stat().st_size
        if size % _ENTRY.itemsize and self._lock.is_locked:
            os.truncate(self._index, size - size % _ENTRY.itemsize)
        count = size // _ENTRY.itemsize
        if count > self._known:
            fresh = np.fromfile(self._index, _ENTRY, count - self._known, offset=self._known * _ENTRY.itemsize)
            for entry in fresh:
                kind, slot = int(entry["kind"]), int(entry["slot"])
                self._places[entry["key"].tobytes()] = (kind, slot)
                self._counts[kind] = slot + 1
            self._known = count

    def _room(self, kind: int, segments: int) -> bool:
        """Whether more segments fit, if need be in the place of shelves that nobody used for a day."""
        needed = segments * self._rows(kind) * (row_bytes(self._fields(kind)) + 1)
        shelves = sorted((_idle(folder), _size(folder), folder) for folder in self._folder.parent.iterdir())
        total = needed + sum(size for _, size, _ in shelves)
        for idle, size, folder in reversed(shelves):
            if total > self._budget and folder != self._folder and folder.is_dir() and idle > _IDLE:
                shutil.rmtree(folder, ignore_errors=True)
                total -= size
        return total <= self._budget

    def _store(self, kind: int, segment: int) -> Store:
        if (kind, segment) not in self._stores:
            folder = self._folder / f"{kind}-{segment:05d}"
            self._stores[kind, segment] = Store(folder, self._rows(kind), self._fields(kind))
        return self._stores[kind, segment]

    def _rows(self, kind: int) -> int:
        """Rows of a segment."""
        return max(1, min(4096, _SEGMENT // row_bytes(self._fields(kind))))

    def _slot(self, key: Key) -> int:
        kind, slot = self._places[key]
        return slot % self._rows(kind)

    def _grouped(self, keys: Iterable[Key]) -> dict[tuple[int, int], list[Key]]:
        """Keys by the store that they lie in."""
        groups: dict[tuple[int, int], list[Key]] = {}
        for key in keys:
            kind, slot = self._places[key]
            groups.setdefault((kind, slot // self._rows(kind)), []).append(key)
        return groups


def _size(folder: Path) -> int:
    """Bytes of the files in a folder; another process may be making or deleting some."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _idle(folder: Path) -> float:
    """Seconds since something was last added; 0 where there is no index."""
    index = folder / "index.bin"
    return time.time() - index.stat().st_mtime if index.is_file() else 0.0
