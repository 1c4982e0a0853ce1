"""What a batch holds, and its last step, on the device that trains: augmented and finished.

A batch is a dict:

    image    `[B, ...]` as the decoder reads it (uint8 `[B, 3, S, S]` for pictures) from the loader; float32, augmented
             (training) and normalised once on the device
    label    long `[B]`, or float `[B, C]` of 0 and 1 (multi-label); not there when nothing is known (predict)
    valid    bool `[B, C]`, False where a label is ignored (multi-label only)
    index    long `[B]`, position in `DataModule.manifest.records`
    view     long `[B]`, version of the image (training only, where there are finitely many: `Augment.views`)
    id       list of B image names
    patient  list of B patients

Where organs of volumes are asked for (`OrganDecoder`), on the device:

    organs   uint8 `[B, D, H, W]`, number of the organ that each voxel of the window belongs to, 0 for none

With `DataModule.texts` it also holds:

    text       list of B texts: drawn by seed, epoch and record (training), or the whole text of the first view there is
    every_text list of B lists of texts that an evaluation asks with (`TextViews.every`; evaluation only)
    text@NAME  list of B texts of a view in `TextViews.extra`, whole, empty where an image has none
    group      long `[B]`, number of the patient, the same in all processes and splits
    study      long `[B]`, number of the study, or of the image where no study is known

In training, and where the task has a true attribute `second_view`:

    image@second  the same images as `image`, augmented by other random numbers
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from domainvl.data.augment import Augment
from domainvl.data.decoder import Decoder
from domainvl.data.views import augmented, second_view

Batch = Mapping[str, Any]


def finished(batch: Batch, decoder: Decoder) -> dict[str, Any]:
    """A batch that is what the task takes."""
    return decoder.finished(batch)


def finished_training(
    batch: Batch, decoder: Decoder, augment: Augment | None, seed: int, epoch: int, second: bool
) -> dict[str, Any]:
    """A training batch, augmented and finished; `second` adds `image@second`."""
    changed = finished(augmented(batch, augment, seed, epoch), decoder)
    if second:
        changed["image@second"] = decoder.finish(second_view(batch, augment, seed, epoch))
    return changed


def finished_support(
    batches: Iterable[Batch], decoder: Decoder, augment: Augment | None, seed: int, device: torch.device
) -> Iterator[dict[str, Any]]:
    """All batches on a device, augmented by numbers that depend on the seed alone, and finished."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for batch in batches:
            batch = moved(batch, device)
            yield finished(batch if augment is None else {**batch, "image": augment(batch["image"])}, decoder)


def moved(batch: Batch, device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on a device."""
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
