"""Whether what a model is tested on was in what it learned from, as far as a run has both before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from domainvl.data.images import ImageSet
from domainvl.data.module import DataModule
from domainvl.evaluation.image_copies import Fingerprints
from domainvl.evaluation.leakage import Leakage, SplitContent, check_leakage

_ORDER = ("train", "validate", "test")


def leakage_of(data: Any) -> Leakage | None:
    """Compare the splits that a data module has set up; None where there are not two.

    Images are compared where they are in memory; what is read from files again and again stays unchecked, and the
    result says so.
    """
    if not isinstance(data, DataModule):
        return None
    sets = {name: data.sets[name] for name in _ORDER if name in data.sets}
    if len(sets) < 2:
        return None
    return check_leakage({name: _content(images) for name, images in sets.items()})


def _content(images: ImageSet) -> SplitContent:
    pairing = images.pairing
    texts = None
    if pairing is not None:
        texts = [pairing.views.whole(pairing.texts(record)) for record in images.records]
    return SplitContent(
        ids=[record.id for record in images.records],
        patients=[record.patient for record in images.records],
        pictures=None if images.pixels is None or images.pixels.dim() != 4 else Fingerprints.of(_pictures(images)),
        texts=texts,
    )


def _pictures(images: ImageSet) -> Iterator[np.ndarray]:
    if images.pixels is not None:
        yield from (pixels.permute(1, 2, 0).numpy() for pixels in images.pixels)
