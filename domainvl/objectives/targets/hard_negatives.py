"""Only the hardest negatives of every row count (UniME, arXiv 2504.17432).

The published code takes negatives back that its filter had dropped where fewer than k are left; here they stay out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from domainvl.objectives.targets.base import Pairs, Step, TargetPolicy, Tile, without


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
        best = self._best(pairs, before)

        def step(tile: Tile) -> Tile:
            tile = before(tile)
            start, stop = tile.columns.start, tile.columns.stop
            chosen = best[tile.rows]
            inside = (chosen >= start) & (chosen < stop)
            # One more column takes all that lie elsewhere.
            kept = torch.zeros(len(chosen), stop - start + 1, dtype=torch.bool, device=chosen.device)
            kept.scatter_(1, torch.where(inside, chosen - start, stop - start), True)
            return without(tile, ~kept[:, :-1])

        return step

    def _best(self, pairs: Pairs, before: Step) -> Tensor:
        """The columns of the k hardest negatives, -1 where there are fewer, `[B, k]`."""
        size, device = len(pairs.rows), pairs.rows.device
        value = torch.full((size, self.k), -torch.inf, device=device, dtype=pairs.rows.dtype)
        column = torch.full((size, self.k), -1, device=device)
        for tile in pairs.sweep(before):
            scores = tile.cosines.masked_fill(~tile.valid | (tile.target > 0), -torch.inf)
            places = torch.arange(tile.columns.start, tile.columns.stop, device=device).expand_as(scores)
            places = places.where(scores > -torch.inf, -1)
            both = torch.cat([value[tile.rows], scores], 1)
            found = both.topk(self.k, dim=1)
            value[tile.rows] = found.values
            column[tile.rows] = torch.cat([column[tile.rows], places], 1).gather(1, found.indices)
        return column
