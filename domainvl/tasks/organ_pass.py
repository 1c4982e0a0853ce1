"""Organs as views of an image: `image@lungs.pooled`, pooled from its patches under a label map, and `image@lungs.mask`.

An organ that is not in a scan has a feature that means nothing and a mask that says so.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from domainvl.features import FeatureKey, Features
from domainvl.organs import organ_coverage, organ_pool


class OrganPass:
    """Pooled features of organs.

    Args:
        names: The organs that batches hold; number 1 is the first.
        wanted: Those that somebody reads; other names are ignored.
    """

    def __init__(self, names: Sequence[str] = (), wanted: Collection[str] = ()) -> None:
        self.numbers = {name: number for number, name in enumerate(names, start=1) if name in wanted}

    def __bool__(self) -> bool:
        return bool(self.numbers)

    def reads(self, key: FeatureKey) -> bool:
        """Whether a key is one of these features."""
        return key.source == "image" and key.view in self.numbers

    def features(self, local: Features, organs: Tensor) -> Features:
        """What organs show.

        Args:
            local: `image.tokens` `[B, L, D]` and `image.grid`.
            organs: Number of the organ of every voxel, `[B, D, H, W]`.
        """
        depth, height, width = local["image.grid"].tolist()
        groups = [[number] for number in self.numbers.values()]
        coverage = organ_coverage(organs, groups, (depth, height, width))
        found = organ_pool(local["image.tokens"], coverage)
        features: Features = {}
        for place, name in enumerate(self.numbers):
            features[f"image@{name}.pooled"] = found.pooled[:, place]
            features[f"image@{name}.mask"] = found.valid[:, place]
        return features

    def blank(self, image: Tensor) -> Tensor:
        """Label maps for blank images: the organs side by side, so that each is somewhere."""
        size = image.shape[-3:]
        flat = torch.arange(size.numel(), device=image.device) % (max(self.numbers.values()) + 1)
        return flat.to(torch.uint8).view(1, *size).expand(len(image), *size)
