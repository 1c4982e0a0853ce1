"""Prepared volumes on disk: made once, mapped by every worker, rank and run.

    <cache>/volumes/<plan>/<key>.npy    int16 [D, H, W], a plain numpy file
                             <key>.json   shape, affine, facts, hash of the voxels; or why there are none
                             <key>.lock   while somebody prepares it

A volume counts once its .json is there, which is renamed into place behind the voxels; everything before that is a
draft in the same folder. Who is killed therefore loses the volume in hand and nothing else. A lock per volume lets any
number of processes prepare the same set at once: each takes what nobody else has taken, and nothing is done twice. The
key holds the source's path, size and time of change, so a source that was replaced is prepared again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from domainvl.data.rejects import UnreadableImage
from domainvl.data.volumes.volume import Matrix, Volume
from domainvl.progress import shown

_VERSION = 1
_HOUR = 3600.0
_DAY = 24 * _HOUR
_OPEN = 256
"""Volumes that one process keeps mapped; a mapping costs address space and no memory."""


class StoreFull(OSError):
    """The volumes asked for do not fit into the budget, or onto the disk."""


@dataclass(frozen=True)
class Entry:
    """One prepared volume.

    Attributes:
        path: The numpy file.
        shape: `[D, H, W]`.
        affine: Rows of the affine from indices to millimetres.
        digest: Hash of the voxels.
        facts: Allowed tags of the source.
    """

    path: Path
    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...] = field(repr=False)
    digest: str
    facts: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def matrix(self) -> Matrix:
        """The affine, `[4, 4]`."""
        return np.array(self.affine)

    def voxels(self) -> NDArray[np.int16]:
        """The whole volume, mapped and not read."""
        return _mapped(self.path)

    def crop(self, start: Sequence[int], size: Sequence[int], fill: int) -> Tensor:
        """A part as int16 `[D, H, W]`; only its rows are read.

        Args:
            start: First slice, row and column; may lie outside.
            size: How many of each.
            fill: What stands where the volume has nothing.
        """
        voxels = self.voxels()
        inner = [
            slice(max(0, first), max(0, min(length, first + count)))
            for first, count, length in zip(start, size, self.shape, strict=True)
        ]
        part = voxels[inner[0], inner[1], inner[2]]
        if part.shape == tuple(size):
            return torch.from_numpy(np.array(part))
        result = np.full(tuple(size), fill, np.int16)
        at = [slice(max(0, -first), max(0, -first) + length) for first, length in zip(start, part.shape, strict=True)]
        result[at[0], at[1], at[2]] = part
        return torch.from_numpy(result)

    def verify(self) -> None:
        """Compare the voxels with their hash; reads all of them.

        Raises:
            OSError: They are not what was written.
        """
        if _digest(self.voxels()) != self.digest:
            raise OSError(f"{self.path} is damaged: its voxels do not fit their hash. Delete it to have it made again")


@dataclass(frozen=True)
class Job:
    """A volume to prepare.

    Attributes:
        key: From `key_of`.
        read: Reads the source; raises UnreadableImage or OSError.
    """

    key: str
    read: Callable[[], Volume]


def key_of(files: Iterable[Path], *more: str) -> str:
    """A name for a source: its files' places, sizes and times of change, and whatever else decides its voxels."""
    digest = hashlib.sha256(json.dumps([_VERSION, *more]).encode())
    for file in files:
        status = file.stat()
        digest.update(f"\0{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:24]


class Plan(Protocol):
    """How volumes are prepared: `VolumePlan` for scans, `OrganPlan` for label maps."""

    @property
    def digest(self) -> str:
        """Over everything that changes a stored voxel."""

    @property
    def size(self) -> tuple[int, int, int] | None:
        """Voxels of every stored volume, where that is known before."""

    def prepare(self, volume: Volume) -> tuple[NDArray[np.int16], Matrix]:
        """Voxels `[D, H, W]` and their affine; UnreadableImage with the reason when there are none."""


class VolumeStore:
    """The prepared volumes of one plan.

    Args:
        root: Folder of all plans' volumes.
        plan: How volumes are prepared.
        budget: GiB that all plans' volumes may take together; what was not used for longest goes first.
    """

    def __init__(self, root: Path, plan: Plan, budget: float = 100.0) -> None:
        if budget <= 0:
            raise ValueError(f"VolumeStore: budget is {budget} GiB; it must be positive")
        self.root = root
        self.plan = plan
        self.folder = root / plan.digest
        self.budget = budget
        self._lock = Lock()
        self._used = 0
        self._total = 0

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes get the place and the plan; a lock cannot be sent."""
        return {"root": self.root, "plan": self.plan, "budget": self.budget}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """See `__getstate__`."""
        self.__init__(**state)  # type: ignore[misc]

    def find(self, key: str) -> Entry | str | None:
        """The prepared volume, the reason why there is none, or None when nobody has tried."""
        try:
            found = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
            if "rejected" in found:
                return str(found["rejected"])
            path = self.folder / f"{key}.npy"
            if path.stat().st_size != found["bytes"]:
                return None
            affine = tuple(tuple(row) for row in found["affine"])
            return Entry(path, tuple(found["shape"]), affine, found["digest"], found["facts"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            # Whatever is not whole is made again.
            return None

    def prepare(self, jobs: Sequence[Job], workers: int = 1, title: str = "preparing volumes") -> list[Entry | str]:
        """Make what is missing; with other processes at it, each volume is made by one of them.

        Args:
            jobs: The volumes of a set.
            workers: Threads; each takes the memory of a volume and its source.
            title: Of the progress bar.

        Returns:
            For every job its volume or the reason why there is none.

        Raises:
            StoreFull: The set does not fit.
        """
        results = [self.find(job.key) for job in jobs]
        self._used = sum(_bytes(result) for result in results)
        todo = [number for number, result in enumerate(results) if result is None]
        if todo:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._total = sum(status.st_size for status, _ in _listed(self.root))
            self._foresee(len(todo))
            keep = {job.key for job in jobs}
            # First whatever is free, then what others had in hand: they may have been killed meanwhile.
            with ThreadPoolExecutor(max(1, workers)) as pool:
                try:
                    for wait in (False, True):
                        left = [number for number in todo if results[number] is None]
                        tries = pool.map(lambda number: (number, self._try(jobs[number], keep, wait)), left)  # noqa: B023
                        for number, result in shown(tries, len(left), title) if left else ():
                            results[number] = result
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
        done = [result for result in results if result is not None]
        for result in done:
            if isinstance(result, Entry):
                _used(result.path)
        return done

    def _try(self, job: Job, keep: set[str], wait: bool) -> Entry | str | None:
        from filelock import FileLock, Timeout

        place = self.folder / f"{job.key}.lock"
        try:
            with FileLock(place, timeout=-1 if wait else 0):
                found = self.find(job.key)
                if found is None:
                    found = self._made(job, keep)
                else:
                    self._count(_bytes(found), keep)
                if os.name == "posix" and self.find(job.key) is not None:
                    # Whoever still waits for this file finds the work done, so it may go while it is locked.
                    place.unlink(missing_ok=True)
                return found
        except Timeout:
            return None

    def _made(self, job: Job, keep: set[str]) -> Entry | str:
        began = time.monotonic()
        try:
            volume = job.read()
            voxels, affine = self.plan.prepare(volume)
        except UnreadableImage as error:
            self._write(job.key, {"rejected": str(error)})
            return str(error)
        except FileNotFoundError:
            return "the file does not exist"
        except MemoryError:
            return "memory ran out while it was prepared; use fewer workers, or a machine with more"
        except OSError as error:
            # May be gone the next time, so it is not written down.
            return f"the file cannot be read: {error.strerror or type(error).__name__}"
        self._count(voxels.nbytes, keep)
        draft, path = self.folder / f".{job.key}.npy", self.folder / f"{job.key}.npy"
        try:
            with draft.open("wb") as file:
                np.save(file, voxels)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise StoreFull(
                error.errno, f"VolumeStore: a volume cannot be written ({error.strerror})", str(path)
            ) from error
        entry = Entry(
            path, voxels.shape, tuple(tuple(map(float, row)) for row in affine), _digest(voxels), dict(volume.facts)
        )
        found: dict[str, Any] = {
            "shape": entry.shape,
            "affine": entry.affine,
            "source_affine": volume.world.tolist(),
            "digest": entry.digest,
            "bytes": path.stat().st_size,
            "facts": entry.facts,
            "plan": self.plan.digest,
            "seconds": round(time.monotonic() - began, 2),
        }
        self._write(job.key, found)
        return entry

    def _write(self, key: str, found: dict[str, Any]) -> None:
        draft = self.folder / f".{key}.json"
        draft.write_text(json.dumps(found), encoding="utf-8")
        draft.replace(self.folder / f"{key}.json")

    def _foresee(self, count: int) -> None:
        """Where the size is known before, a set that cannot fit is refused before anything is read."""
        if self.plan.size is not None:
            self._check(self._used + count * int(np.prod(self.plan.size)) * 2)

    def _check(self, needed: int) -> None:
        if needed > self.budget * 2**30:
            raise StoreFull(
                f"VolumeStore: the volumes of this set take at least {needed / 2**30:.1f} GiB, the budget is "
                f"{self.budget:g}; raise `budget`, or choose a coarser spacing or a tighter crop"
            )

    def _count(self, size: int, keep: set[str]) -> None:
        """Take room for a volume of this set, if need be from volumes that nobody has used for long."""
        with self._lock:
            self._used += size
            self._total += size
            self._check(self._used)
            if self._total > self.budget * 2**30:
                self._make_room(size, keep)

    def _make_room(self, size: int, keep: set[str]) -> None:
        files = _listed(self.root)
        self._total = size + sum(status.st_size for status, _ in files)
        now = time.time()
        for status, file in sorted(files, key=lambda pair: pair[0].st_mtime):
            if self._total <= self.budget * 2**30:
                return
            # Another run may be at work with what was used today.
            if file.stem not in keep and now - status.st_mtime > _DAY:
                file.with_suffix(".json").unlink(missing_ok=True)
                file.unlink(missing_ok=True)
                self._total -= status.st_size
        if self._total > self.budget * 2**30:
            raise StoreFull(
                f"VolumeStore: {self.root} holds {self._total / 2**30:.1f} GiB with this volume, all of them of this "
                f"set or used today, and the budget is {self.budget:g}; raise `budget` or delete the folder"
            )


def _listed(root: Path) -> list[tuple[os.stat_result, Path]]:
    """Stored volumes; another process may rename its draft, or make room, while they are listed."""
    found = []
    for file in root.glob("*/*.npy"):
        with suppress(FileNotFoundError):
            found.append((file.stat(), file))
    return found


def _bytes(result: Entry | str | None) -> int:
    return int(np.prod(result.shape)) * 2 if isinstance(result, Entry) else 0


def _used(path: Path) -> None:
    """Say that a volume is in use, for whoever needs room."""
    if time.time() - path.stat().st_mtime > _HOUR:
        os.utime(path)


def _digest(voxels: NDArray[np.int16]) -> str:
    return hashlib.sha256(np.ascontiguousarray(voxels).data).hexdigest()[:24]


_maps: OrderedDict[Path, tuple[NDArray[np.int16], float]] = OrderedDict()


def _mapped(path: Path) -> NDArray[np.int16]:
    """The same mapping for every access of a process; says from time to time that the volume is in use."""
    found, since = _maps.get(path, (None, 0.0))
    now = time.monotonic()
    if found is None:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    if now - since > _HOUR or not since:
        _maps[path] = (found, now)
        _used(path)
        while len(_maps) > _OPEN:
            _maps.popitem(last=False)
    return found
