"""What an image of a data module with texts is paired with: its texts, its patient and its study, as numbers."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from domainvl.data.manifest import Manifest
from domainvl.data.rejects import Reject, Rejects
from domainvl.data.texts.views import TextReader, TextViews, missing


class Pairing:
    """Texts and numbers of the records of one manifest.

    Args:
        manifest: The whole data set, so that all processes and splits count alike.
        views: Which texts.
    """

    def __init__(self, manifest: Manifest, views: TextViews) -> None:
        self.records = manifest.records
        self.views = views
        self.name = manifest.name
        self.texts = TextReader(views, manifest.reports)
        self.group = _numbered(record.patient for record in manifest.records)
        self.study = _numbered(
            (record.patient, record.study) if record.study else (record.key,) for record in manifest.records
        )

    def with_text(self, positions: Sequence[int], rejects: Rejects, workers: int, split: str) -> list[int]:
        """The positions of those that have any text to draw; the others are noted.

        Args:
            positions: Positions in the manifest.
            rejects: Takes the notes.
            workers: Threads that read reports.
            split: What the positions are called in an error.
        """
        with ThreadPoolExecutor(max(1, workers)) as pool:
            texts = pool.map(lambda position: self.views.whole(self.texts(self.records[position])), positions)
            there = [bool(text) for text in texts]
        kept = [position for position, found in zip(positions, there, strict=True) if found]
        without = [self.records[position] for position, found in zip(positions, there, strict=True) if not found]
        reason = missing(self.views, without)
        if positions and not kept:
            raise ValueError(
                f"{self.name}: none of the {len(positions)} {split} images has a text: {reason}. Check "
                f"texts.views, the columns of the table and the folder of the reports ({self.texts.reports})"
            )
        rejects.note(Reject(record.row, record.key, reason) for record in without)
        if without:
            _tell(f"{self.name}: {len(without)} of {len(positions)} {split} images are left out: {reason}")
        return kept

    def batch(self, positions: Sequence[int]) -> dict[str, Any]:
        """`texts` (by view, of every image), `group` `[B]` and `study` `[B]`."""
        chosen = list(positions)
        return {
            "texts": [self.texts(self.records[position]) for position in chosen],
            "group": self.group[chosen],
            "study": self.study[chosen],
        }

    def worded(self, batch: dict[str, Any], turn: tuple[int, int] | None) -> dict[str, Any]:
        """A batch with `text` and `text@NAME` in place of `texts`.

        Args:
            batch: With `texts` and `index`.
            turn: Seed and epoch of the draw; None for the whole text of the first view that there is (evaluation), and
                `every_text`, all that an evaluation asks with.
        """
        texts = batch.pop("texts")
        if turn is None:
            batch["text"] = [self.views.whole(one) for one in texts]
            batch["every_text"] = [self.views.asked(one) for one in texts]
        else:
            indices = batch["index"].tolist()
            batch["text"] = [self.views.draw(one, *turn, index) for one, index in zip(texts, indices, strict=True)]
        for name in self.views.extra:
            batch[f"text@{name}"] = [one[name] for one in texts]
        return batch


@rank_zero_only
def _tell(text: str) -> None:
    warnings.warn(text, stacklevel=2)


def _numbered(names: Iterable[Hashable]) -> Tensor:
    """Numbers from 0 in the order of first appearance."""
    known: dict[Hashable, int] = {}
    return torch.tensor([known.setdefault(name, len(known)) for name in names]).long()
