"""A teacher's view of who matches (momentum distillation of ALBEF, Li et al., NeurIPS 2021, arXiv 2107.07651)."""

from __future__ import annotations

import torch
from torch import Tensor

from domainvl.objectives.targets.base import Pairs, Step, TargetPolicy, Tile, taught, with_target


class Momentum(TargetPolicy):
    """P <- alpha softmax(s cosines of the teacher) + (1 - alpha) P, over the valid columns.

    The teacher's features are those of the `ema/` role, its queue that of the students' keys. Its own column counts
    like any other.

    Args:
        alpha: Share of the teacher in the end.
        ramp_steps: Optimiser steps in which it grows to that from 0 (ALBEF: the first epoch).
    """

    def __init__(self, alpha: float = 0.4, ramp_steps: int = 0) -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f"Momentum: alpha must be between 0 and 1, got {alpha}")
        if ramp_steps < 0:
            raise ValueError(f"Momentum: ramp_steps must not be negative, got {ramp_steps}")
        self.alpha, self.ramp_steps = alpha, ramp_steps

    def needs(self, source: str, target: str) -> frozenset[str]:
        """Both features as the teacher sees them."""
        return frozenset({taught(source), taught(target)})

    def share(self, step: int) -> float:
        """Alpha after so many optimiser steps."""
        return self.alpha if step >= self.ramp_steps else self.alpha * step / self.ramp_steps

    def bind(self, pairs: Pairs, before: Step) -> Step:
        """See the class."""
        alpha = self.share(pairs.context.step)
        if alpha == 0:
            return before
        rows, columns = (pairs.sides.feature(taught(key))[i] for i, key in enumerate((pairs.row_key, pairs.column_key)))
        rows = rows * pairs.context.scale.detach().to(rows)
        log_sum = torch.full((len(rows),), -torch.inf, device=rows.device, dtype=rows.dtype)
        total = torch.zeros_like(log_sum)

        def scores(tile: Tile) -> Tensor:
            return (rows[tile.rows] @ columns[tile.columns].T).masked_fill(~tile.valid, -torch.inf)

        for tile in pairs.sweep(before):
            log_sum[tile.rows] = log_sum[tile.rows].logaddexp(scores(tile).logsumexp(1))
            total[tile.rows] += tile.target.masked_fill(~tile.valid, 0.0).sum(1)
        total.clamp_min_(torch.finfo(total.dtype).tiny)

        def step(tile: Tile) -> Tile:
            tile = before(tile)
            soft = (scores(tile) - log_sum[tile.rows, None]).exp()
            hard = tile.target.masked_fill(~tile.valid, 0.0) / total[tile.rows, None]
            return with_target(tile, alpha * soft + (1 - alpha) * hard)

        return step
