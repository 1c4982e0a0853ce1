"""MMRL++: parameter-efficient and interaction-aware MMRL (Guo and Gu, 2025, arXiv 2505.10088).

MMRL (see `mmrl`) with three changes. With R `[K, d_r]` the shared space, i an edited block and x what block i - 1 made
of the inserted tokens:

    R_i = R (W + A_i B_i)^T + b_i             one W per side, low-rank residuals per block (their SRRA)
    x  <- beta R_i + (1 - beta) x             the tokens go on instead of starting anew in every block (their PRC)
    f_r = mean_k norm(x_k) (P + A B)          P is the backbone's own projection, so f_r starts in its space

A_i and A start Kaiming uniform, B_i and B at zero. On ViT-B/16 that is 813,312 numbers where MMRL has 4,992,256.
Scores, the rule for novel classes and the authors' loss are those of MMRL.

Differs from the authors' code: P is whatever the backbone's projection is, a bias included; A B is added to what it
gives. Their beta differs per data set, and in cross-data-set transfer per target, chosen on the target's test split;
here it is one number. Otherwise as in `mmrl`.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from domainvl.adapters.base import Side
from domainvl.adapters.mmrl import MMRL, SPAN
from domainvl.tokens import TokenState
from domainvl.towers.base import Tower


class MMRLpp(MMRL):
    """Representation tokens that are passed on from block to block, with shared maps and a residual head.

    Args:
        tokens: Number of representation tokens K.
        width: Size d_r of the shared space.
        first_block: First block that sees the tokens, from 0, in both towers; None takes 5/12 of the
            depth of each.
        alpha: Share of the class head in the fused scores.
        beta: Share of new tokens in every block above the first; 1 passes nothing on.
        rank: Rank of A_i B_i.
        head_rank: Rank of A B.
        scale: Factor on cosines; None takes the backbone's own.
    """

    def __init__(
        self,
        tokens: int = 5,
        width: int = 512,
        first_block: int | None = None,
        alpha: float = 0.7,
        beta: float = 0.9,
        rank: int = 4,
        head_rank: int = 64,
        scale: float | None = None,
    ) -> None:
        super().__init__(tokens, width, first_block, alpha, scale)
        if not 0 < beta <= 1:
            raise ValueError(f"MMRLpp: beta must lie in 0..1 (0 excluded), got {beta}")
        if rank < 1 or head_rank < 1:
            raise ValueError(f"MMRLpp: rank and head_rank must be positive, got {rank} and {head_rank}")
        self.beta, self.rank, self.head_rank = beta, rank, head_rank

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return super().config() | {"beta": self.beta, "rank": self.rank, "head_rank": self.head_rank}

    def _make_head(self, image: Tower) -> None:
        self.residual = _low_rank(image.width, self.head_rank, image.out_dim)

    def _maps(self, side: Side, tower: Tower) -> nn.Module:
        return _Aligner(self.width, tower.width, tower.depth - self.first_block(side, tower), self.rank)

    def _mapped(self, side: Side, step: int) -> Tensor:
        return cast(_Aligner, self.maps[side])(self.space, step)

    def _renewed(self, state: TokenState, new: Tensor) -> TokenState:
        passed_on = state.take(SPAN)
        return state.overwrite(self.beta * new.to(passed_on.dtype) + (1 - self.beta) * passed_on, name=SPAN)

    def _represent(self, tower: Tower, mean: Tensor) -> Tensor:
        return tower.project(mean) + mean @ (self.residual["A"] @ self.residual["B"])


class _Aligner(nn.Module):
    """`[K, d_r] -> [K, d]`, one weight for all blocks plus a low-rank residual and a bias for each."""

    def __init__(self, inner: int, outer: int, blocks: int, rank: int) -> None:
        super().__init__()
        start = nn.Linear(inner, outer)
        self.weight = nn.Parameter(start.weight.detach().clone())
        self.biases = nn.ParameterList(start.bias.detach().clone() for _ in range(blocks))
        self.residuals = nn.ModuleList(_low_rank(outer, rank, inner) for _ in range(blocks))

    def forward(self, space: Tensor, step: int) -> Tensor:
        residual = cast(nn.ParameterDict, self.residuals[step])
        return nn.functional.linear(space, self.weight + residual["A"] @ residual["B"], self.biases[step])


def _low_rank(rows: int, rank: int, columns: int) -> nn.ParameterDict:
    """Factors of a `[rows, columns]` matrix that starts at zero."""
    first = torch.empty(rows, rank)
    # Kaiming uniform over `rank` inputs, as the authors do, is U(-1/sqrt(rank), 1/sqrt(rank)).
    nn.init.kaiming_uniform_(first, a=math.sqrt(5))
    return nn.ParameterDict({"A": nn.Parameter(first), "B": nn.Parameter(torch.zeros(rank, columns))})
