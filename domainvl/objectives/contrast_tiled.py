"""`contrast` without the matrix of scores: tiles, made twice.

The forward sweep keeps the log of the sum of exponentials and the score of the targets of every row and, in the
symmetric loss, of every column, both from the same tile; the backward sweep makes every tile once more. That is four
matrix products for the symmetric loss, where the plain form takes three and holds several matrices of all scores.

With A = s a/|a|, B = b/|b|, l = A B^T and G = dL/dl:

    dA = G B,  dB = G^T A,  ds = sum_i A_i . dA_i / s          (D numbers per row, so fp64 costs nothing)
    da = s (dA - (dA . A) A / s^2) / |a|

Where everybody is their own match, the part of the targets in G is known without any tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from domainvl.objectives.base import Gather
from domainvl.objectives.contrast import Contrast, Rule, WeightNorm, row_accuracy, row_shares

ON_CPU, ELSEWHERE = (512, 1024), (4096, 8192)
"""Rows and columns of a tile: two (scores, exponentials) stay in a core's cache, while a GPU wants large products."""


def contrast_tiled(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    rule: Rule | None,
    back: Rule | None,
    weights: Tensor | None,
    symmetric: bool,
    offset: int,
    label_smoothing: float,
    weight_norm: WeightNorm,
    gather: Gather,
) -> Contrast:
    """See `contrast`, which checks the arguments."""
    plan = _Plan(rule, back, symmetric, offset, label_smoothing)
    found = _Sweeps.apply(a, b, scale, plan)
    ways = []
    for each, kept, hit in (found[:3], found[3:])[: 1 + symmetric]:
        share = row_shares(kept, weights, each.dtype, weight_norm, gather)
        ways.append(Contrast((share * each).sum(), row_accuracy(hit, kept)))
    if not symmetric:
        return ways[0]
    return Contrast((ways[0].loss + ways[1].loss) / 2, (ways[0].accuracy + ways[1].accuracy) / 2)


@dataclass(frozen=True)
class _Plan:
    """What is compared how; see `contrast`."""

    rule: Rule | None
    back: Rule | None
    symmetric: bool
    offset: int
    smoothing: float


@dataclass(frozen=True)
class _Cut:
    """A tile of scores, seen from the side of its rows.

    Attributes:
        rows: Which rows.
        columns: Which columns.
        scores: l, `[r, c]`.
        spare: Room for as many numbers.
        cosines: l / s where somebody asks for them.
    """

    rows: slice
    columns: slice
    scores: Tensor
    spare: Tensor
    cosines: Tensor | None

    @property
    def turned(self) -> _Cut:
        """The same from the side of the columns."""
        cosines = None if self.cosines is None else self.cosines.T
        return _Cut(self.columns, self.rows, self.scores.T, self.spare.T, cosines)


class _Side:
    """Running values of rows, `[n]` each: what the forward sweep collects and the backward sweep needs.

    Attributes:
        top: Highest valid score.
        total: Sum of exponentials of the valid scores, relative to `top`.
        match: Sum of P l.
        mass: Sum of P.
        best: Highest score of a target.
        count: Number of valid columns.
        spread: Sum of the valid scores.
    """

    def __init__(self, size: int, like: Tensor, rule: Rule | None, offset: int, smoothing: float) -> None:
        self.rule, self.offset, self.smoothing = rule, offset, smoothing
        self.top, self.best = (like.new_full((size,), -torch.inf) for _ in range(2))
        self.total, self.match, self.mass, self.count, self.spread = (like.new_zeros(size) for _ in range(5))
        self.log_sum = self.top

    def take_in(self, cut: _Cut) -> None:
        """One tile of the forward sweep."""
        rows, scores = cut.rows, cut.scores
        if self.rule is None or cut.cosines is None:
            self._own(cut)
        else:
            target, valid = self._targets(cut, cut.cosines)
            scores = scores.masked_fill(~valid, -torch.inf)
            self.match[rows] += (target * cut.scores).sum(1)
            self.mass[rows] += target.sum(1)
            self.best[rows] = self.best[rows].maximum(cut.scores.masked_fill(target == 0, -torch.inf).amax(1))
            if self.smoothing:
                self.count[rows] += valid.sum(1)
                self.spread[rows] += cut.scores.masked_fill(~valid, 0.0).sum(1)
        before = self.top[rows]
        top = before.maximum(scores.amax(1))
        base = top.masked_fill(top == -torch.inf, 0.0)
        sums = torch.sub(scores, base[:, None], out=cut.spare).exp_().sum(1)
        self.total[rows] = self.total[rows] * (before - base).exp() + sums
        self.top[rows] = top

    def close(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """After the last tile: the loss of every row, whether it counts, whether its best column is a target."""
        kept, hit = self.mass > 0, self.best >= self.top
        if self.rule is None:
            self.count.fill_(len(columns))
            if self.smoothing:
                self.spread = rows @ columns.sum(0)
        log_sum = self.top + self.total.log()
        self.mass.clamp_min_(torch.finfo(self.mass.dtype).tiny)
        self.count.clamp_min_(1)
        match = (1 - self.smoothing) * self.match / self.mass + self.smoothing * self.spread / self.count
        # exp(l - infinity) is the gradient of a row that does not count.
        self.log_sum = log_sum.masked_fill(~kept, torch.inf)
        return torch.where(kept, log_sum - match, 0.0), kept, hit

    def slope(self, cut: _Cut, gradient: Tensor, out: Tensor) -> Tensor:
        """`dL/dl` of a tile into `out`; without its targets where everybody is their own match."""
        rows = cut.rows
        share = gradient[rows, None]
        if self.rule is None or cut.cosines is None:
            return torch.sub(cut.scores, self.log_sum[rows, None], out=out).exp_().mul_(share)
        target, valid = self._targets(cut, cut.cosines)
        torch.sub(cut.scores, self.log_sum[rows, None], out=out).exp_().masked_fill_(~valid, 0.0)
        out.addcmul_(target, ((self.smoothing - 1) / self.mass[rows, None]).expand_as(target))
        if self.smoothing:
            out.sub_(valid * (self.smoothing / self.count[rows, None]))
        return out.mul_(share)

    def own_part(self, gradient: Tensor, rows: Tensor, columns: Tensor, to_rows: Tensor, to_columns: Tensor) -> None:
        """Take the targets out of `dA` and `dB`, where everybody is their own match."""
        if self.rule is not None:
            return
        mine = slice(self.offset, self.offset + len(rows))
        share = (1 - self.smoothing) * gradient[:, None]
        to_rows.addcmul_(share, columns[mine], value=-1)
        to_columns[mine].addcmul_(share, rows, value=-1)
        if self.smoothing:
            even = self.smoothing / len(columns) * gradient
            to_rows.addr_(even, columns.sum(0), alpha=-1)
            to_columns.sub_(even @ rows)

    def _own(self, cut: _Cut) -> None:
        """Everybody's own score, where it lies in this tile."""
        ahead = cut.rows.start + self.offset - cut.columns.start
        height, width = cut.scores.shape
        if not -height < ahead < width:
            return
        found = cut.scores.diagonal(ahead)
        start = cut.rows.start + max(0, -ahead)
        mine = slice(start, start + len(found))
        self.match[mine], self.best[mine], self.mass[mine] = found, found, 1.0

    def _targets(self, cut: _Cut, cosines: Tensor) -> tuple[Tensor, Tensor]:
        if self.rule is None:
            raise RuntimeError("contrast_tiled: targets were asked of a side that has no rule")
        target, valid = self.rule(cut.rows, cut.columns, cosines)
        return target.to(cut.scores.dtype).masked_fill(~valid, 0.0), valid


class _Sweeps(torch.autograd.Function):
    """a `[B, D]`, b `[M, D]`, s to (loss, counts, hits), `[B]` each, and the same of the columns, `[M]`."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, scale: Tensor, plan: _Plan) -> tuple[Tensor, ...]:
        rows, row_norm = _unit(a)
        columns, column_norm = _unit(b)
        rows *= scale
        sides = [_Side(len(a), rows, plan.rule, plan.offset, plan.smoothing)]
        if plan.symmetric:
            sides.append(_Side(len(b), rows, plan.back, 0, plan.smoothing))
        for cut in _tiles(rows, columns, scale, plan):
            for side, seen in zip(sides, (cut, cut.turned), strict=False):
                side.take_in(seen)
        found: tuple[Tensor, ...] = sides[0].close(rows, columns)
        if plan.symmetric:
            found += sides[1].close(columns, rows)
        ctx.mark_non_differentiable(*(value for value in found if value.dtype == torch.bool))
        ctx.save_for_backward(rows, columns, row_norm, column_norm, scale)
        ctx.sides, ctx.plan = sides, plan
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, columns, row_norm, column_norm, scale = ctx.saved_tensors
        with torch.autocast(rows.device.type, enabled=False):
            return _backward(ctx, gradients[::3], rows, columns, row_norm, column_norm, scale)


def _backward(
    ctx: Any,
    gradients: tuple[Tensor, ...],
    rows: Tensor,
    columns: Tensor,
    row_norm: Tensor,
    column_norm: Tensor,
    scale: Tensor,
) -> tuple[Tensor | None, ...]:
    to_rows, to_columns = torch.zeros_like(rows), torch.zeros_like(columns)
    sides = ctx.sides
    for cut in _tiles(rows, columns, scale, ctx.plan):
        slope = sides[0].slope(cut, gradients[0], cut.spare)
        if ctx.plan.symmetric:
            slope.add_(sides[1].slope(cut.turned, gradients[1], cut.scores.T).T)
        to_rows[cut.rows].addmm_(slope, columns[cut.columns])
        if ctx.needs_input_grad[1]:
            to_columns[cut.columns].addmm_(slope.T, rows[cut.rows])
    sides[0].own_part(gradients[0], rows, columns, to_rows, to_columns)
    if ctx.plan.symmetric:
        sides[1].own_part(gradients[1], columns, rows, to_columns, to_rows)
    to_scale = _through_norm(to_rows, rows, row_norm, scale) / scale
    _through_norm(to_columns, columns, column_norm, torch.ones_like(scale))
    return to_rows, to_columns if ctx.needs_input_grad[1] else None, to_scale.to(scale.dtype), None


def _tiles(rows: Tensor, columns: Tensor, scale: Tensor, plan: _Plan) -> Iterator[_Cut]:
    """All tiles of scores, one after the other in the same memory."""
    height, width = ON_CPU if rows.device.type == "cpu" else ELSEWHERE
    size, count = len(rows), len(columns)
    room = [rows.new_empty(min(height, size) * min(width, count)) for _ in range(2)]
    asked = plan.rule is not None or plan.back is not None
    for top in range(0, size, height):
        i = slice(top, min(top + height, size))
        for left in range(0, count, width):
            j = slice(left, min(left + width, count))
            shape = (i.stop - i.start, j.stop - j.start)
            scores, spare = (flat[: shape[0] * shape[1]].view(shape) for flat in room)
            torch.mm(rows[i], columns[j].T, out=scores)
            yield _Cut(i, j, scores, spare, scores / scale if asked else None)


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of length one, and what they were divided by, `[n, 1]`."""
    norm = x.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return x / norm, norm


def _through_norm(gradient: Tensor, unit: Tensor, norm: Tensor, scale: Tensor) -> Tensor:
    """Turn the gradient of s x/|x| into that of x, in place; returns its product with s x/|x|, in fp64."""
    total = torch.zeros((), dtype=torch.float64, device=gradient.device)
    for start in range(0, len(gradient), 1024):
        part = slice(start, start + 1024)
        along = (gradient[part].double() * unit[part]).sum(1, keepdim=True)
        total += along.sum()
        gradient[part].addcmul_((along / scale**2).to(gradient.dtype), unit[part], value=-1)
        gradient[part] *= scale / norm[part]
    return total
