"""Whether what a model is tested on is in what it learns from: all splits of a data module compared before training."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from domainvl import __version__
from domainvl.cache import cache_root
from domainvl.data.images import ImageSet
from domainvl.data.manifest import Split
from domainvl.data.module import DataModule
from domainvl.data.shelf import Key, Shelf
from domainvl.evaluation.image_copies import SIDE, Fingerprints
from domainvl.evaluation.leakage import Leakage, SplitContent, check_leakage
from domainvl.progress import shown

_ORDER: tuple[Split, ...] = ("train", "validate", "test")
_FIELDS = {"digest": ((16,), torch.uint8), "thumb": ((SIDE, SIDE), torch.uint8)}
_AT_ONCE = 4096
"""Fingerprints that are put on the shelf together."""


def leakage_of(data: Any, cache: float = 0.0) -> Leakage | None:
    """Compare the splits of a data module; None where there are not two.

    Images that are not in memory are read for it, one at a time; of each 2.3 KB are kept on disk, so that a second run
    reads none. Volumes stay unchecked, and the result says so.

    Args:
        data: The data module, set up to train.
        cache: GiB on disk for what is kept; 0 keeps nothing.
    """
    if not isinstance(data, DataModule):
        return None
    sets = {name: images for name in _ORDER if len(images := data.images_of(name))}
    if len(sets) < 2:
        return None
    return check_leakage(
        {str(name): _content(images, name, data.loading.readers, cache) for name, images in sets.items()}
    )


def leakage_between(learned: tuple[str, DataModule], tested: tuple[str, DataModule], cache: float = 0.0) -> Leakage:
    """Compare the training images of one data set with the test images of another.

    Patients are not compared: what two data sets call them has nothing to do with each other.

    Args:
        learned: A name for the result, and the data set that something was learned from.
        tested: The same of the one that it is tested on.
        cache: See `leakage_of`.
    """
    contents: dict[str, SplitContent] = {}
    for (name, data), split in ((learned, _ORDER[0]), (tested, _ORDER[2])):
        images = data.images_of(split)
        if not len(images):
            raise ValueError(f"leakage_between: {name} has no {split} images to compare")
        found = _content(images, f"{name} {split}", data.loading.readers, cache)
        contents[f"{name} {split}"] = replace(found, patients=[f"{name} {patient}" for patient in found.patients])
    return check_leakage(contents)


@rank_zero_only
def warn_of(leakage: Leakage) -> None:
    """Say at once, in counts, that splits share patients or images."""
    for alarm in leakage.alarms():
        warnings.warn(f"{alarm} shared.csv in the run folder will list some of them", stacklevel=2)


def _content(images: ImageSet, split: str, readers: int, cache: float) -> SplitContent:
    items: Sequence[int] = range(len(images))
    pictures = fingerprints(images)
    if images.pixels is None and images.decoder.pictures:
        items, pictures = _from_files(images, split, readers, cache)
    records = [images.records[item] for item in items]
    pairing = images.pairing
    texts = None
    if pairing is not None:
        texts = [pairing.views.whole(pairing.texts(record)) for record in records]
    return SplitContent([record.id for record in records], [record.patient for record in records], pictures, texts)


def fingerprints(images: ImageSet) -> Fingerprints | None:
    """Of pictures that are in memory; None of volumes and bags, and of what is read from files."""
    if images.pixels is None or not images.decoder.pictures:
        return None
    return Fingerprints.of(map(_picture, images.pixels))


def _from_files(images: ImageSet, split: str, readers: int, cache: float) -> tuple[list[int], Fingerprints]:
    """Items that can be read, and their fingerprints."""
    name = hashlib.sha256(f"{__version__} {images.decoder.digest}".encode()).hexdigest()[:24]
    folder = cache_root() / "fingerprints" / name
    shelf = Shelf(folder, lambda kind: _FIELDS, int(cache * 2**30)) if cache else None
    keys = [_key(images, item) for item in range(len(images))]
    known = {} if shelf is None else shelf.read(keys)
    missing = [item for item, key in enumerate(keys) if key not in known]

    def look(item: int) -> dict[str, Tensor] | None:
        pixels = images.read(item)
        if isinstance(pixels, str):
            return None
        found = Fingerprints.of([_picture(pixels)])
        return {
            "digest": torch.tensor(list(found.digests[0]), dtype=torch.uint8),
            "thumb": torch.tensor(found.thumbs[0]),
        }

    fresh: dict[Key, dict[str, Tensor]] = {}
    with ThreadPoolExecutor(max(1, readers)) as pool:
        looked = shown(pool.map(look, missing), len(missing), f"{images.name}: {split} images, looking for copies")
        for number, (item, row) in enumerate(zip(missing, looked, strict=True), start=1):
            if row is not None:
                fresh[keys[item]] = row
            if shelf is not None and fresh and (len(fresh) == _AT_ONCE or number == len(missing)):
                shelf.write(0, fresh)
                known |= fresh
                fresh = {}
    known |= fresh
    items = [item for item, key in enumerate(keys) if key in known]
    rows = [known[keys[item]] for item in items]
    thumbs = np.stack([row["thumb"].numpy() for row in rows]) if rows else np.empty((0, SIDE, SIDE), np.uint8)
    return items, Fingerprints(tuple(bytes(row["digest"].tolist()) for row in rows), thumbs)


def _key(images: ImageSet, item: int) -> Key:
    """Which file it is, and in which state; a file that is not there cannot be read either."""
    record = images.records[item]
    try:
        state = (images.root / record.path).stat()
        stamp = f"{state.st_size} {state.st_mtime_ns}"
    except OSError:
        stamp = "missing"
    return hashlib.blake2b(f"{images.root.resolve()} {record.key} {stamp}".encode(), digest_size=16).digest()


def _picture(pixels: Tensor) -> np.ndarray:
    return pixels.permute(1, 2, 0).numpy()
