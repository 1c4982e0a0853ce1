"""From a set of images to the loader of its batches."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from domainvl.data.images import ImageSet
from domainvl.data.loading import Loading
from domainvl.data.sampler import EvalSampler, TrainSampler


class ImageLoader(DataLoader[dict[str, Any]]):
    """A loader that lists what its workers could not read, draws texts, and never hands out an empty batch.

    Its constructor is torch's, because Lightning makes loaders anew in its own way when it predicts.
    """

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        images = cast("ImageSet", self.dataset)
        sampler = self.sampler
        # Workers outlive an epoch and do not hear of the next one, so what depends on it is drawn here.
        turn = None
        if isinstance(sampler, TrainSampler) and not isinstance(sampler, EvalSampler):
            turn = (sampler.seed, sampler.epoch)
        for batch in super().__iter__():
            rejected = batch.pop("rejected")
            if rejected:
                images.rejects.add(rejected)
                images.rejects.check()
                images.rejects.flush()
            if images.pairing is not None:
                batch = images.pairing.worded(batch, turn)
            if len(batch["index"]):
                yield batch


def image_loader(images: ImageSet, sampler: TrainSampler, loading: Loading) -> ImageLoader:
    """The loader of a set.

    Args:
        images: What is loaded.
        sampler: In which order; an `EvalSampler` for evaluation.
        loading: How.
    """
    training = not isinstance(sampler, EvalSampler)
    size = loading.batch_size if training else loading.eval_batch_size
    workers = loading.readers
    if images.pixels is not None:
        workers = 0
        # Lightning asks for workers here, which would only copy what is in memory already.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    return ImageLoader(
        images,
        batch_size=size,
        sampler=sampler,
        drop_last=training and loading.drop_last and len(sampler) >= size,
        collate_fn=images.collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
