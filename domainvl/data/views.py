"""Training pictures that are finitely many: every image in a few versions that are drawn once, or as it is.

A version depends on the seed, the image and its number alone, so a second epoch over it, or a second run, sees the same
picture, and what a frozen model says about it need not be computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from domainvl.data.augment import Augment
from domainvl.data.images import ImageSet


def augmented(batch: Mapping[str, Any], augment: Augment | None, seed: int, epoch: int) -> dict[str, Any]:
    """A training batch with its images changed; `view` `[B]` says which version it is, where there are finitely many.

    Args:
        batch: `image` and `index`.
        augment: Random changes; None for none.
        seed: Seed of the versions.
        epoch: Epoch that is running; the versions take turns.
    """
    count = _count(augment)
    if count is None:
        return {**batch, "image": augment(batch["image"]) if augment is not None else batch["image"]}
    view = epoch % count
    images = batch["image"]
    if augment is not None:
        images = augment(images, torch.stack([_draw(augment, seed, index, view) for index in batch["index"].tolist()]))
    return {**batch, "image": images, "view": torch.full_like(batch["index"], view)}


def second_view(batch: Mapping[str, Any], augment: Augment | None, seed: int, epoch: int) -> Tensor:
    """The images of a training batch changed once more, by other random numbers than `augmented` takes."""
    if augment is None:
        raise ValueError("the task asks for a second view of every image, but data.augment is null; give augment")
    count = _count(augment)
    if count is None:
        return augment(batch["image"])
    draws = [_draw(augment, seed, index, epoch % count, 1) for index in batch["index"].tolist()]
    return augment(batch["image"], torch.stack(draws))


@dataclass(frozen=True)
class Pictures:
    """All training pictures.

    Attributes:
        digest: Hash over the pixels, the augmentation, its seed and the number of versions.
        views: Versions of every image.
        index: The `index` of every image, rising.
    """

    digest: str
    views: int
    index: np.ndarray

    @classmethod
    def of(cls, images: ImageSet, augment: Augment | None, seed: int) -> Pictures | None:
        """The pictures of a split; None when they are drawn anew in every epoch or not all in memory.

        What is hashed are the pixels themselves, so that a changed file, reader or preset is never mistaken.
        """
        count = _count(augment)
        if count is None or images.pixels is None:
            return None
        order = np.argsort(images.positions)
        changes = None if augment is None else [type(augment).__name__, asdict(augment)]
        settings = {"seed": seed, "decoder": images.decoder.digest, "augment": changes}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for item in order:
            digest.update(f"{images.positions[item]}\n".encode())
            digest.update(images.pixels[item].contiguous().view(torch.uint8).numpy().data)
        return cls(digest.hexdigest(), count, np.asarray(images.positions)[order])

    @property
    def count(self) -> int:
        """Number of pictures."""
        return self.views * len(self.index)

    def slots(self, index: Tensor, view: Tensor) -> Tensor:
        """Number of each picture, 0 to `count` - 1, `[B]` on the CPU."""
        rows = np.searchsorted(self.index, index.cpu().numpy())
        return torch.from_numpy(rows) * self.views + view.cpu()


def _count(augment: Augment | None) -> int | None:
    return 1 if augment is None else augment.views


def _draw(augment: Augment, seed: int, index: int, view: int, *more: int) -> Tensor:
    state = np.random.SeedSequence((seed, index, view, *more)).generate_state(1, np.uint64)[0]
    return torch.rand(augment.NUMBERS, generator=torch.Generator().manual_seed(int(state >> np.uint64(1))))
