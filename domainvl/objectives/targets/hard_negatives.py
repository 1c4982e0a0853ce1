"""Only the hardest negatives of every row count (UniME, arXiv 2504.17432).

The published code takes negatives back that its filter had dropped where fewer than k are left; here they stay out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from domainvl.objectives.targets.base import Pairs, Step, TargetPolicy, Tile, best_columns, chosen_of, without


class HardNegatives(TargetPolicy):
    """Keep targets and the k best-scoring valid others of every row.

    Args:
        k: How many.
    """

    def __init__(self, k: int = 8) -> None:
        if k < 1:
            raise ValueError(f"HardNegatives: k must be at least 1, got {k}")
        self.k = k

    def bind(self, pairs: Pairs, before: Step) -> Step:
        """See the class."""
        best, _ = best_columns(pairs, before, _negatives, self.k)

        def step(tile: Tile) -> Tile:
            tile = before(tile)
            return without(tile, ~chosen_of(best, tile))

        return step


def _negatives(tile: Tile) -> Tensor:
    return tile.cosines.masked_fill(~tile.valid | (tile.target > 0), -torch.inf)
