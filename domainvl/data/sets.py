"""Image sets that are ready: read into memory where they fit, or few-shot ones, drawn again for what cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from domainvl.data.fewshot import draw
from domainvl.data.images import ImageSet
from domainvl.data.labels import LabelPolicy
from domainvl.data.loading import Loading
from domainvl.data.manifest import Manifest


def loaded(images: ImageSet, loading: Loading, split: str) -> ImageSet:
    """The images of a split, in memory where they fit."""
    if loading.fits(images.bytes()):
        count = len(images)
        images.preload(loading.readers, f"reading {count} {split} images")
        images.rejects.check()
        if not len(images):
            first = next(iter(images.rejects)).reason
            raise ValueError(f"{images.name}: none of the {count} {split} images can be read. The first: {first}")
    return images


def drawn_sets(
    manifest: Manifest,
    splits: tuple[list[int], list[int]],
    shots: int,
    seed: int,
    policy: LabelPolicy,
    made: Callable[[Sequence[int]], ImageSet],
    workers: int,
) -> dict[str, ImageSet]:
    """The sets `train` and, where there is anything to draw from, `validate`, read into memory.

    What cannot be read is passed over and the next one drawn, until k is full.

    Args:
        manifest: The data set.
        splits: Positions of the training and of the validation split.
        shots: k.
        seed: Seed of the draw.
        policy: How uncertain and blank labels count (multi-label).
        made: The images at these positions, not read yet.
        workers: Threads that read.
    """
    pixels: dict[int, Tensor] = {}
    unreadable: set[int] = set()
    while True:
        drawn = draw(manifest, *splits, shots, seed, policy, unreadable)
        fresh = [position for part in drawn for position in part if position not in pixels]
        if not fresh:
            break
        images = made(fresh)
        unreadable.update(images.preload(workers, "reading the drawn images"))
        pixels.update(images.loaded())
        images.rejects.check()
    sets: dict[str, ImageSet] = {}
    for split, positions in zip(("train", "validate"), drawn, strict=True):
        if positions:
            sets[split] = made(positions)
            sets[split].take([pixels[position] for position in positions])
    return sets
