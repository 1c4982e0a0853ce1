"""The images of one split: read by worker processes as they are needed, or all at once into one uint8 tensor."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from domainvl.data.labels import Label, LabelPolicy
from domainvl.data.manifest import Manifest
from domainvl.data.preset import Preset
from domainvl.data.rejects import Reject, Rejects, UnreadableImage

Reader = Callable[[Path], Image.Image | Tensor]
"""File to picture; raises UnreadableImage. A function of a module, because worker processes get it by name."""

_SILENT_SECONDS = 2.0


class PixelMemory:
    """Pixels of files that were read before, for a process that prepares the same images again and again.

    Args:
        gib: Most that is kept; what comes later is read from its file every time.
    """

    def __init__(self, gib: float) -> None:
        self._left = int(gib * 2**30)
        self._pixels: dict[tuple[Path, str, Reader], Tensor] = {}

    def pixels(self, path: Path, preset: Preset, reader: Reader) -> Tensor:
        """What `preset.pixels(reader(path))` gives, or gave."""
        key = (path, preset.digest, reader)
        found = self._pixels.get(key)
        if found is None:
            found = preset.pixels(reader(path))
            if self._left >= found.nbytes:
                self._left -= found.nbytes
                self._pixels[key] = found
        return found


_memory: PixelMemory | None = None


def remember(gib: float | None) -> None:
    """Let this process keep the pixels of up to `gib` GiB of images from now on; None forgets them."""
    global _memory
    _memory = None if gib is None else PixelMemory(gib)


class ImageSet(Dataset[Any]):
    """The images of one split.

    Args:
        manifest: The data set.
        positions: Positions in the manifest that make up the split.
        preset: How pictures become pixels.
        reader: How files become pictures.
        policy: How labels become targets.
        rejects: Where unreadable images are listed.
        labelled: Whether batches carry labels.
    """

    def __init__(
        self,
        manifest: Manifest,
        positions: Sequence[int],
        preset: Preset,
        reader: Reader,
        policy: LabelPolicy,
        rejects: Rejects,
        labelled: bool = True,
    ) -> None:
        self.root = manifest.root
        self.positions = list(positions)
        self.records = [manifest.records[position] for position in self.positions]
        self.preset = preset
        self.reader = reader
        self.rejects = rejects
        self.pixels: Tensor | None = None
        self.label: Tensor | None = None
        self.valid: Tensor | None = None
        if labelled and manifest.multilabel:
            rows = [policy.targets(record.labels, manifest.classes) for record in self.records]
            targets = torch.tensor([[-1.0 if value is None else value for value in row] for row in rows])
            targets = targets.view(len(rows), len(manifest.classes))
            self.valid, self.label = targets >= 0, targets.clamp(min=0)
        elif labelled:
            self.label = torch.tensor([record.labels.index(Label.POSITIVE) for record in self.records]).long()

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, item: int) -> tuple[int, Tensor | str]:
        """Place in this split, and pixels `[3, S, S]` or the reason why there are none."""
        if self.pixels is not None:
            return item, self.pixels[item]
        return item, self.read(item)

    def read(self, item: int) -> Tensor | str:
        """Pixels from the file, or the reason why there are none."""
        path = self.root / self.records[item].path
        try:
            if _memory is not None:
                return _memory.pixels(path, self.preset, self.reader)
            return self.preset.pixels(self.reader(path))
        except UnreadableImage as error:
            return str(error)
        except FileNotFoundError:
            return "the file does not exist"
        except OSError as error:
            return f"the file cannot be read: {error.strerror or type(error).__name__}"

    def collate(self, items: Sequence[tuple[int, Tensor | str]]) -> dict[str, Any]:
        """One batch of the images that could be read; the others are under `rejected`."""
        good = [(item, pixels) for item, pixels in items if isinstance(pixels, Tensor)]
        chosen = [item for item, _ in good]
        size = self.preset.size
        images = [pixels for _, pixels in good]
        batch: dict[str, Any] = {
            "image": torch.stack(images) if images else torch.empty(0, 3, size, size, dtype=torch.uint8),
            "index": torch.tensor([self.positions[item] for item in chosen]).long(),
            "id": [self.records[item].id for item in chosen],
            "patient": [self.records[item].patient for item in chosen],
            "rejected": [self.reject(item, reason) for item, reason in items if isinstance(reason, str)],
        }
        if self.label is not None:
            batch["label"] = self.label[chosen]
        if self.valid is not None:
            batch["valid"] = self.valid[chosen]
        return batch

    def reject(self, item: int, reason: str) -> Reject:
        """The entry of the list of rejects."""
        record = self.records[item]
        return Reject(record.row, record.path, reason)

    def bytes(self) -> int:
        """Memory that `preload` would take."""
        return len(self) * 3 * self.preset.size**2

    def preload(self, workers: int, title: str) -> list[int]:
        """Read everything now and keep it; positions of the images that cannot be read, which are left out.

        Threads, not processes: decoding and resizing release the interpreter, and nothing has to be copied.
        """
        size = self.preset.size
        pixels = torch.empty(len(self), 3, size, size, dtype=torch.uint8)
        good: list[int] = []
        bad: list[int] = []

        def read(item: int) -> str | None:
            result = self.read(item)
            if isinstance(result, str):
                return result
            pixels[item] = result
            return None

        with ThreadPoolExecutor(max(1, workers)) as pool:
            for item, reason in enumerate(_shown(pool.map(read, range(len(self))), len(self), title)):
                (good if reason is None else bad).append(item)
                if reason is not None:
                    self.rejects.add([self.reject(item, reason)])
        unreadable = [self.positions[item] for item in bad]
        if bad:
            self.keep(good)
            pixels = pixels[good]
        self.pixels = pixels
        return unreadable

    def loaded(self) -> dict[int, Tensor]:
        """Pixels by position, after `preload`."""
        return {} if self.pixels is None else dict(zip(self.positions, self.pixels, strict=True))

    def keep(self, items: Sequence[int]) -> None:
        """Leave everything out but these items."""
        self.positions = [self.positions[item] for item in items]
        self.records = [self.records[item] for item in items]
        self.label = None if self.label is None else self.label[list(items)]
        self.valid = None if self.valid is None else self.valid[list(items)]


class ImageLoader(DataLoader[dict[str, Any]]):
    """A loader that lists what its workers could not read and never hands out an empty batch."""

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        for batch in super().__iter__():
            rejected = batch.pop("rejected")
            if rejected:
                rejects: Rejects = self.dataset.rejects  # type: ignore[attr-defined]
                rejects.add(rejected)
                rejects.check()
                rejects.flush()
            if len(batch["index"]):
                yield batch


def processors() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shown(steps: Iterator[str | None], total: int, title: str) -> Iterator[str | None]:
    """The same steps, with a progress bar once they have taken a while."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task(title, total=total)
    began = time.monotonic()
    try:
        for step in steps:
            progress.advance(task)
            if not progress.live.is_started and time.monotonic() - began > _SILENT_SECONDS:
                progress.start()
            yield step
    finally:
        if progress.live.is_started:
            progress.stop()
