"""One-way losses over all pairs of rows and columns, strip by strip: no matrix of scores, and every score made once.

Where a loss knows its slope as soon as it has seen a strip of rows, gradients are made on the way forwards and only
scaled on the way back: three matrix products, as many as the plain form takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from domainvl.objectives.base import Gather
from domainvl.objectives.contrast_parts import (
    Contrast,
    Rule,
    WeightNorm,
    cuts,
    row_accuracy,
    row_sum,
    sum_type,
    through_norm,
    unit,
)

Finish = Callable[[slice, slice, Tensor], Tensor]
"""(rows, columns, scores `[r, c]`) to the sum of their losses; the scores become the slope of that sum."""

STRIP = 2**20
"""Numbers in a strip of whole rows on a CPU, so that it stays in the shared cache; elsewhere eight times as many."""
LEAST_ROWS = 32
"""A product of fewer rows is slow, however long they are."""


def strips(
    a: Tensor, b: Tensor, scale: Tensor, bias: Tensor | None, finish: Finish, tile: tuple[int, int] | None = None
) -> Tensor:
    """Sum of losses over scores `s cos(a_i, b_j) + bias`; fp32 at least.

    Args:
        a: Rows `[B, D]`, not normalised.
        b: Columns `[M, D]`, not normalised.
        scale: s.
        bias: A number with or without a gradient.
        finish: See `Finish`; it never meets a gradient.
        tile: Rows and columns that it gets at once; None: some rows, all columns.
    """
    if tile is None:
        room = STRIP if a.device.type == "cpu" else 8 * STRIP
        tile = (max(LEAST_ROWS, min(1024, room // max(1, len(b)))), max(1, len(b)))
    wanted = torch.is_grad_enabled()
    return _Strips.apply(a, b, scale, bias, finish, tile, wanted)


def contrast_one_way(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    rule: Rule | None,
    weights: Tensor | None,
    offset: int,
    smoothing: float,
    weight_norm: WeightNorm,
    gather: Gather,
) -> Contrast:
    """See `contrast`, which checks the arguments."""
    kept = torch.ones(len(a), dtype=torch.bool, device=a.device)
    hit = torch.zeros_like(kept)
    weight = torch.ones_like(a[:, 0]) if weights is None else weights.to(a.dtype)
    factor = scale.detach()

    def finish(rows: slice, columns: slice, scores: Tensor) -> Tensor:
        share = weight[rows]
        if rule is None:
            start = rows.start + offset
            best = match = scores.diagonal(start).clone()
        else:
            target, valid = rule(rows, columns, scores / factor)
            target = target.to(scores.dtype).masked_fill(~valid, 0.0)
            best = scores.masked_fill(target == 0, -torch.inf).amax(1)
            mass = target.sum(1)
            kept[rows] = mass > 0
            share = share.where(kept[rows], 0.0)
            target /= mass.clamp_min(torch.finfo(mass.dtype).tiny)[:, None]
            match = (target * scores).sum(1)
        if smoothing:
            if rule is None:
                spread = scores.mean(1)
            else:
                even = valid / valid.sum(1, keepdim=True).clamp_min(1).to(scores.dtype)
                spread = (even * scores).sum(1)
            match = (1 - smoothing) * match + smoothing * spread
        if rule is not None:
            # A row that is left out keeps all its columns: a softmax over nothing is not a number, not even times zero.
            scores.masked_fill_(~valid & kept[rows, None], -torch.inf)
        top = scores.amax(1)
        hit[rows] = best >= top
        sums = scores.sub_(top[:, None]).exp_().sum(1)
        loss = (share * (sums.log() + (top - match))).sum(dtype=sum_type(scores))
        scores.div_(sums[:, None])
        if rule is None:
            scores.diagonal(start).sub_(1 - smoothing)
        else:
            scores.sub_(target, alpha=1 - smoothing)
        if smoothing:
            scores.sub_(smoothing / len(b) if rule is None else smoothing * even)
        scores.mul_(share[:, None])
        return loss

    total = strips(a, b, scale, None, finish)
    return Contrast(total / row_sum(kept, weights, a.dtype, weight_norm, gather), row_accuracy(hit, kept))


class _Strips(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        finish: Finish,
        tile: tuple[int, int],
        wanted: bool,
    ) -> Tensor:
        rows, row_norm = unit(a)
        columns, column_norm = unit(b)
        rows *= scale
        wanted = wanted and any(ctx.needs_input_grad)
        to_rows, to_columns = (torch.zeros_like(x) if wanted else None for x in (rows, columns))
        total = torch.zeros((), dtype=sum_type(a), device=a.device)
        to_bias = torch.zeros_like(total)
        room = rows.new_empty(min(tile[0], len(a)) * min(tile[1], len(b)))
        for i in cuts(len(a), tile[0]):
            for j in cuts(len(b), tile[1]):
                shape = (i.stop - i.start, j.stop - j.start)
                scores = room[: shape[0] * shape[1]].view(shape)
                torch.mm(rows[i], columns[j].T, out=scores)
                if bias is not None:
                    scores += bias
                total += finish(i, j, scores)
                if to_rows is None or to_columns is None:
                    continue
                to_rows[i].addmm_(scores, columns[j])
                if ctx.needs_input_grad[1]:
                    to_columns[j].addmm_(scores.T, rows[i])
                if bias is not None:
                    to_bias += scores.sum(dtype=total.dtype)
        if to_rows is not None and to_columns is not None:
            to_scale = through_norm(to_rows, rows, row_norm, scale) / scale
            through_norm(to_columns, columns, column_norm, torch.ones_like(scale))
            ctx.save_for_backward(to_rows, to_columns, to_scale.to(scale.dtype), to_bias.to(scale.dtype))
        return total.to(a.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        found = (gradients[0] * x if n else None for x, n in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False))
        return (*found, None, None, None)
