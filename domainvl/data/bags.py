"""Bags: all tiles of a slide as one sample, and batches of them.

A batch holds, beside `index`, `id`, `patient`, `label` and `valid` (`domainvl.data.batch`):

    bag       float32 `[B, N, D]`, tiles in the space that texts share; zero where `keep` is False
    bag@deep  float32 `[B, N, W]`, the same tiles before the projection
    keep      bool `[B, N]`, False where a slide has fewer tiles than the largest one of the batch
    place     long `[B, N, 2]`, left upper corners, x and y in pixels of level 0

From the loader the features come as float16, which is half of what has to be copied to the device.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from domainvl.data.decoder import Decoder
from domainvl.data.images import ImageSet
from domainvl.data.manifest import Record
from domainvl.progress import shown


@dataclass(frozen=True)
class Bag:
    """The tiles of a slide.

    Attributes:
        joint: In the space that texts share, `[N, D]`.
        deep: Before the projection, `[N, W]`.
        place: Left upper corners, x and y at level 0, `[N, 2]`.
        side: A tile's side in pixels of level 0; None where nobody says.
        extent: Width and height of the slide at level 0; None where nobody says.
    """

    joint: Tensor = field(repr=False)
    deep: Tensor = field(repr=False)
    place: Tensor = field(repr=False)
    side: float | None = None
    extent: tuple[int, int] | None = None

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return self.joint.nbytes + self.deep.nbytes + self.place.nbytes


def padded(bags: Sequence[Bag]) -> dict[str, Tensor]:
    """The keys of a batch that bags make, padded with zeros."""
    longest = max((len(bag.place) for bag in bags), default=0)
    keep = torch.zeros(len(bags), longest, dtype=torch.bool)
    for row, bag in zip(keep, bags, strict=True):
        row[: len(bag.place)] = True

    def together(parts: Sequence[Tensor]) -> Tensor:
        shape = (len(parts), longest, parts[0].shape[-1]) if parts else (0, 0, 0)
        result = torch.zeros(shape, dtype=parts[0].dtype if parts else torch.float16)
        for row, part in zip(result, parts, strict=True):
            row[: len(part)] = part
        return result

    return {
        "bag": together([bag.joint for bag in bags]),
        "bag@deep": together([bag.deep for bag in bags]),
        "keep": keep,
        "place": together([bag.place for bag in bags]),
    }


def thinned(batch: Mapping[str, Any], most: int) -> dict[str, Any]:
    """A batch with at most so many tiles of every slide, chosen by chance, in their order."""
    keep = batch["keep"]
    if keep.shape[1] <= most:
        return dict(batch)
    # Padding loses against every tile.
    chance = torch.rand(keep.shape).to(keep.device).masked_fill(~keep, -1)
    chosen = chance.topk(most, dim=1).indices.sort(dim=1).values
    rows = torch.arange(len(keep), device=keep.device)[:, None]
    return {**batch, **{key: batch[key][rows, chosen] for key in ("bag", "bag@deep", "keep", "place")}}


class BagDecoder(Decoder):
    """Base of what turns the record of a slide into its bag. Bags differ in length, so `read` has no place here."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Bags have no common shape."""
        raise TypeError(f"{type(self).__name__}: bags differ in length; ask for `bag`")

    @abstractmethod
    def bag(self, record: Record, root: Path) -> Bag:
        """The tiles of a slide; UnreadableImage with the reason when there are none."""

    @abstractmethod
    def bag_bytes(self, record: Record, root: Path) -> int:
        """About how much memory the tiles of a slide take."""

    @abstractmethod
    def prepare(self, records: Sequence[Record], root: Path) -> list[str | None]:
        """Make the features of slides that have none; the reason why not for each that cannot be used."""

    def read(self, record: Record, root: Path) -> Tensor:
        """See `shape`."""
        raise TypeError(f"{type(self).__name__}: bags differ in length; ask for `bag`")

    def finish(self, batch: Tensor) -> Tensor:
        """Features in float32, on the device that they came to."""
        return batch.float()

    def finished(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """See `Decoder.finished`."""
        return {**batch, "bag": self.finish(batch["bag"]), "bag@deep": self.finish(batch["bag@deep"])}


class BagSet(ImageSet):
    """The slides of one split, kept bag by bag where they fit into memory; arguments as in `ImageSet`."""

    decoder: BagDecoder
    pixels: list[Bag] | None  # type: ignore[assignment]

    def decode(self, record: Record) -> Bag:  # type: ignore[override]
        """The bag of a record."""
        return self.decoder.bag(record, self.root)

    def stacked(self, images: Sequence[Bag]) -> dict[str, Tensor]:  # type: ignore[override]
        """See `padded`."""
        return padded(images)

    def take(self, images: Sequence[Bag]) -> None:  # type: ignore[override]
        """Keep bags that were read elsewhere."""
        self.pixels = list(images)

    def bytes(self) -> int:
        """Memory that `preload` would take."""
        return sum(self.decoder.bag_bytes(record, self.root) for record in self.records)

    def preload(self, workers: int, title: str) -> list[int]:
        """Embed what has no features yet, then read everything; positions of the slides that cannot be used."""
        reasons = self.decoder.prepare(self.records, self.root)
        bags: dict[int, Bag] = {}
        for item in shown(range(len(self)), len(self), title):
            found: Any = reasons[item] or self.read(item)
            if isinstance(found, Bag):
                bags[item] = found
            else:
                self.rejects.add([self.reject(item, found)])
        unusable = [position for item, position in enumerate(self.positions) if item not in bags]
        if unusable:
            self.keep(list(bags))
        self.pixels = list(bags.values())
        return unusable
