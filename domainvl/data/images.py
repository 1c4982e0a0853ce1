"""The images of one split: read by worker processes as they are needed, or all at once into one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from domainvl.data.decoder import Decoder, decoded
from domainvl.data.labels import Label, LabelPolicy
from domainvl.data.manifest import Manifest, Record
from domainvl.data.pairing import Pairing
from domainvl.data.rejects import Reject, Rejects, attempted
from domainvl.progress import shown


class ImageSet(Dataset[Any]):
    """The images of one split.

    Args:
        manifest: The data set.
        positions: Positions in the manifest that make up the split.
        decoder: How records become tensors.
        policy: How labels become targets.
        rejects: Where unreadable images are listed.
        labelled: Whether batches carry labels.
        pairing: Texts that go with the images; None for none.
    """

    def __init__(
        self,
        manifest: Manifest,
        positions: Sequence[int],
        decoder: Decoder,
        policy: LabelPolicy,
        rejects: Rejects,
        labelled: bool = True,
        pairing: Pairing | None = None,
    ) -> None:
        self.name = manifest.name
        self.root = manifest.root
        self.positions = list(positions)
        self.records = [manifest.records[position] for position in self.positions]
        self.decoder = decoder
        self.rejects = rejects
        self.pairing = pairing
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
        """Place in this split, and what the decoder gives, or the reason why there are none."""
        if self.pixels is not None:
            return item, self.pixels[item]
        return item, self.read(item)

    def read(self, item: int) -> Tensor | str:
        """What the decoder makes of the record, or the reason why it cannot."""
        return attempted(lambda: self.decode(self.records[item]))

    def decode(self, record: Record) -> Tensor:
        """What the decoder makes of a record."""
        return decoded(self.decoder, record, self.root)

    def stacked(self, images: Sequence[Tensor]) -> dict[str, Tensor]:
        """What a batch holds of these images."""
        return {"image": torch.stack(list(images)) if images else self._empty(0)}

    def take(self, images: Sequence[Tensor]) -> None:
        """Keep what was read elsewhere, one for each item."""
        self.pixels = torch.stack(list(images))

    def collate(self, items: Sequence[tuple[int, Tensor | str]]) -> dict[str, Any]:
        """One batch of the images that could be read; the others are under `rejected`."""
        good = [(item, pixels) for item, pixels in items if not isinstance(pixels, str)]
        chosen = [item for item, _ in good]
        images = [pixels for _, pixels in good]
        batch: dict[str, Any] = {
            **self.stacked(images),
            "index": torch.tensor([self.positions[item] for item in chosen]).long(),
            "id": [self.records[item].id for item in chosen],
            "patient": [self.records[item].patient for item in chosen],
            "rejected": [self.reject(item, reason) for item, reason in items if isinstance(reason, str)],
        }
        if self.pairing is not None:
            batch |= self.pairing.batch([self.positions[item] for item in chosen])
        if self.label is not None:
            batch["label"] = self.label[chosen]
        if self.valid is not None:
            batch["valid"] = self.valid[chosen]
        return batch

    def reject(self, item: int, reason: str) -> Reject:
        """The entry of the list of rejects."""
        record = self.records[item]
        return Reject(record.row, record.key, reason)

    def bytes(self) -> int:
        """Memory that `preload` would take."""
        return len(self) * self.decoder.bytes()

    def preload(self, workers: int, title: str) -> list[int]:
        """Read everything now and keep it; positions of the images that cannot be read, which are left out.

        Threads, not processes: decoding and resizing release the interpreter, and nothing has to be copied.
        """
        pixels = self._empty(len(self))
        good: list[int] = []
        bad: list[int] = []

        def read(item: int) -> str | None:
            result = self.read(item)
            if isinstance(result, str):
                return result
            pixels[item] = result
            return None

        with ThreadPoolExecutor(max(1, workers)) as pool:
            for item, reason in enumerate(shown(pool.map(read, range(len(self))), len(self), title)):
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

    def _empty(self, rows: int) -> Tensor:
        return torch.empty(rows, *self.decoder.shape, dtype=self.decoder.dtype)
