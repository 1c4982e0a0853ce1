"""From what somebody has in hand to batches, whatever their number."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from domainvl.data.loading import Loading
from domainvl.data.preset import Preset
from domainvl.data.rejects import UnreadableImage
from domainvl.data.volumes.preset import VolumePreset


class Inputs(ABC):
    """Base of what a `Model` reads.

    Attributes:
        preset: Preprocessing of what the model takes.
        noun: What is read, for progress bars and errors.
        batch_size: How many go through a tower at once.
    """

    preset: Preset | VolumePreset
    noun: ClassVar[str]
    batch_size: ClassVar[int] = 64

    @abstractmethod
    def open(self, number: int, item: Any) -> Any:
        """One input; `number` is its place, for errors."""

    @abstractmethod
    def stack(self, items: list[Any]) -> Any:
        """A batch of what `open` gave."""

    def several(self, items: Any) -> tuple[Iterable[Any], int | None]:
        """One input as a row of one, and how many there are, where that is known."""
        if isinstance(items, (str, os.PathLike)):
            return [items], 1
        return items, len(items) if hasattr(items, "__len__") else None

    def batches(self, items: Iterable[Any], size: int) -> Iterator[Any]:
        """Batches, read by a few threads, one ahead of who takes them and no more."""
        rows = enumerate(items)
        with ThreadPoolExecutor(max(1, Loading().readers)) as pool:
            waiting = [pool.submit(self.open, *row) for row in islice(rows, size)]
            while waiting:
                batch = self.stack([one.result() for one in waiting])
                waiting = [pool.submit(self.open, *row) for row in islice(rows, size)]
                yield batch

    def path(self, number: int, item: Any) -> Path:
        """A file or folder that is there."""
        if not isinstance(item, (str, os.PathLike)):
            raise TypeError(f"{self.noun} {number} is {type(item).__name__}; accepted are paths")
        path = Path(item)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        return path


def unreadable(path: Path, error: UnreadableImage) -> ValueError:
    """An error for people who gave one file by name, instead of a row in a list of rejects."""
    return ValueError(f"{path}: {error}")
