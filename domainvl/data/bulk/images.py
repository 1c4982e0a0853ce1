"""Images of a source in batches, read by worker processes a few batches ahead and no more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from domainvl.data.bulk.sources import Item
from domainvl.data.decoder import Decoder, decoded
from domainvl.data.manifest import Record
from domainvl.data.rejects import attempted


@dataclass(frozen=True)
class Read:
    """A batch that was read.

    Attributes:
        items: What was asked for, in order.
        reasons: Why an item could not be read; empty where it could. One for each item.
        images: What the decoder made of the others, `[G, *shape]`.
    """

    items: Sequence[Item]
    reasons: Sequence[str]
    images: Tensor


def chunks(items: Iterable[Item], size: int, done: int = 0) -> Iterator[list[Item]]:
    """Items in batches, the first `done` of them left out."""
    left = islice(items, done, None)
    while some := list(islice(left, size)):
        yield some


def read_images(items: Iterator[list[Item]], decoder: Decoder, root: Path, workers: int) -> Iterable[Read]:
    """Batches in order.

    Args:
        items: Batches of items; taken as they are needed, never all at once.
        decoder: How a file becomes a tensor.
        root: Folder that names are relative to.
        workers: Processes that read; 0 to read here.
    """
    return DataLoader(
        _Images(decoder, root),
        batch_sampler=_Batches(items),
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=False,
    )


class _Batches(Sampler[list[Item]]):
    """Hands items to workers in place of the usual positions, so that nobody holds a list of all of them."""

    def __init__(self, items: Iterator[list[Item]]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[list[Item]]:
        return self.items


class _Images(Dataset[Read]):
    """Reads a batch at a time."""

    def __init__(self, decoder: Decoder, root: Path) -> None:
        self.decoder, self.root = decoder, root

    def __getitems__(self, items: list[Item]) -> Read:
        found = [self._read(item) for item in items]
        good = [image for image in found if isinstance(image, Tensor)]
        images = torch.stack(good) if good else torch.empty(0, *self.decoder.shape, dtype=self.decoder.dtype)
        return Read(items, [image if isinstance(image, str) else "" for image in found], images)

    def _read(self, item: Item) -> Tensor | str:
        if item.fault:
            return item.fault
        record = Record(item.name, item.content, item.name)
        return attempted(lambda: decoded(self.decoder, record, self.root))


def _as_it_is(batch: Any) -> Any:
    return batch
