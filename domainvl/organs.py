"""Features of organs: patch tokens pooled under a label map. Pure tensors, knows no library.

    coverage   how much of each patch an organ fills, 0..1
    pooled     the mean of patch tokens, weighted by coverage
    valid      whether the organ is in the volume at all

A label map is a TotalSegmentator-style volume of whole numbers over the same field of view as the image; an organ may
be several of its labels (the five lobes of a lung). A task gives them to objectives as `image@organ.pooled` and its
mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Organs = Sequence[Sequence[int]]
"""The labels of every organ."""


@dataclass(frozen=True)
class OrganFeatures:
    """What is known of O organs in B volumes.

    Attributes:
        pooled: One feature per organ, `[B, O, D]`; zero where it is not valid.
        valid: Whether the organ is there, `[B, O]`.
    """

    pooled: Tensor
    valid: Tensor


def organ_coverage(labels: Tensor, organs: Organs, grid: tuple[int, int, int]) -> Tensor:
    """The share of every patch that an organ fills.

    Args:
        labels: Label maps of whole numbers, `[B, D, H, W]`.
        organs: The labels of every organ.
        grid: Patches along D, H and W; each covers as many voxels as any other.

    Returns:
        `[B, O, L]` in 0..1, L in the order of the patch tokens.
    """
    if labels.dim() != 4 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"organ_coverage: labels must be whole numbers [B, D, H, W], got {labels.dtype} {tuple(labels.shape)}"
        )
    if not organs or any(not group for group in organs):
        raise ValueError(f"organ_coverage: every organ needs at least one label, got {[list(g) for g in organs]}")
    sizes = tuple(labels.shape[1:])
    if len(grid) != 3 or any(side < 1 or size % side for size, side in zip(sizes, grid, strict=True)):
        raise ValueError(
            f"organ_coverage: a label map of {sizes} voxels is not made of {tuple(grid)} equal patches; crop and "
            "pad it as the image was"
        )
    patch = tuple(size // side for size, side in zip(sizes, grid, strict=True))
    found = []
    # One organ at a time: a map of every organ at once would be as large as all of them together.
    for group in organs:
        inside = torch.isin(labels, torch.tensor(list(group), dtype=labels.dtype, device=labels.device))
        found.append(F.avg_pool3d(inside[:, None].to(torch.float32), patch).flatten(1))
    return torch.stack(found, dim=1)


def organ_pool(tokens: Tensor, coverage: Tensor, least: float = 0.0) -> OrganFeatures:
    """Pool patch tokens under organs.

    Args:
        tokens: Patch tokens `[B, L, D]`, special and inserted ones left out.
        coverage: What `organ_coverage` gives, `[B, O, L]`.
        least: An organ that fills less than this many patches in total is not there.
    """
    if tokens.dim() != 3 or coverage.dim() != 3 or coverage.shape[::2] != tokens.shape[:2]:
        raise ValueError(
            f"organ_pool: tokens {tuple(tokens.shape)} and coverage {tuple(coverage.shape)} do not fit; give [B, L, D] "
            "and [B, O, L]"
        )
    if least < 0:
        raise ValueError(f"organ_pool: least must not be negative, got {least}")
    weights = coverage.to(tokens.dtype)
    amount = weights.sum(dim=-1)
    valid = (amount > 0) & (amount >= least)
    weights = weights / amount.clamp_min(torch.finfo(weights.dtype).tiny)[..., None]
    # Not by multiplication: a token that is not finite would spread.
    pooled = (weights @ tokens).masked_fill(~valid[..., None], 0.0)
    return OrganFeatures(pooled, valid)
