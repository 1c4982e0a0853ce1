"""Part of the target goes to everybody (ALIGN smooths by 0.1, arXiv 2102.05918)."""

from __future__ import annotations

import torch

from domainvl.objectives.targets.base import Pairs, Step, TargetPolicy, Tile, with_target


class LabelSmoothing(TargetPolicy):
    """P <- (1 - epsilon) P + epsilon / (number of valid columns), in the place that it has among the policies.

    `label_smoothing` of the objectives does the same behind all policies, without a sweep over the rows.

    Args:
        epsilon: The share.
    """

    def __init__(self, epsilon: float = 0.1) -> None:
        if not 0 <= epsilon < 1:
            raise ValueError(f"LabelSmoothing: epsilon must be at least 0 and below 1, got {epsilon}")
        self.epsilon = epsilon

    def bind(self, pairs: Pairs, before: Step) -> Step:
        """See the class."""
        total = pairs.rows.new_zeros(len(pairs.rows))
        count = torch.zeros_like(total)
        for tile in pairs.sweep(before):
            total[tile.rows] += tile.target.masked_fill(~tile.valid, 0.0).sum(1)
            count[tile.rows] += tile.valid.sum(1)
        total.clamp_min_(torch.finfo(total.dtype).tiny)
        count.clamp_min_(1)

        def step(tile: Tile) -> Tile:
            tile = before(tile)
            hard = tile.target.masked_fill(~tile.valid, 0.0) / total[tile.rows, None]
            even = tile.valid / count[tile.rows, None]
            return with_target(tile, (1 - self.epsilon) * hard + self.epsilon * even)

        return step
