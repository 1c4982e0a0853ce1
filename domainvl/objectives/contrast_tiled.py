"""The symmetric loss of `contrast` without the matrix of scores: tiles, made twice.

The forward sweep keeps the log of the sum of exponentials and the score of the targets of every row and every column,
both from the same tile; the backward sweep makes every tile once more. That is four matrix products where the plain
form takes three and holds several matrices of all scores.

With A = s a/|a|, B = b/|b|, l = A B^T and G = dL/dl:

    dA = G B,  dB = G^T A,  ds = sum_i A_i . dA_i / s          (D numbers per row, so fp64 costs nothing)
    da = s (dA - (dA . A) A / s^2) / |a|

Sums of exponentials stay relative to the highest score: where scores reach 100, adding it would cost two digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from domainvl.objectives.base import Gather
from domainvl.objectives.contrast_parts import (
    Contrast,
    Rule,
    WeightNorm,
    cuts,
    halves,
    row_mean,
    through_norm,
    tile_of,
    unit,
)


def contrast_symmetric(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    rule: Rule | None,
    back: Rule | None,
    weights: Tensor | None,
    smoothing: float,
    weight_norm: WeightNorm,
    gather: Gather,
) -> Contrast:
    """See `contrast`, which checks the arguments."""
    found = _Sweeps.apply(a, b, scale, rule, back, smoothing)
    forth, other = (
        row_mean(each, kept, hit, weights, weight_norm, gather) for each, kept, hit in (found[:3], found[3:])
    )
    return halves(forth, other)


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

    def __init__(self, size: int, like: Tensor, rule: Rule | None, smoothing: float) -> None:
        self.rule, self.smoothing = rule, smoothing
        self.top, self.best = (like.new_full((size,), -torch.inf) for _ in range(2))
        self.total, self.match, self.mass, self.count, self.spread = (like.new_zeros(size) for _ in range(5))

    def take_in(self, cut: _Cut) -> None:
        """One tile of the forward sweep."""
        rows, scores = cut.rows, cut.scores
        if self.rule is None or cut.cosines is None:
            own = self._diagonal(cut, scores)
            if own is not None:
                mine, found = own
                self.match[mine], self.best[mine], self.mass[mine] = found, found, 1.0
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
        self.mass.clamp_min_(torch.finfo(self.mass.dtype).tiny)
        self.count.clamp_min_(1)
        match = (1 - self.smoothing) * self.match / self.mass + self.smoothing * self.spread / self.count
        each = torch.where(kept, self.total.log() + (self.top - match), 0.0)
        # exp(l - infinity) is the slope of a row that does not count.
        self.top.masked_fill_(~kept, torch.inf)
        self.total.masked_fill_(~kept, 1.0)
        return each, kept, hit

    def slope(self, cut: _Cut, gradient: Tensor, out: Tensor) -> Tensor:
        """`dL/dl` of a tile into `out`, without the even part of the targets where everybody is their own match."""
        rows = cut.rows
        torch.sub(cut.scores, self.top[rows, None], out=out).exp_()
        if self.rule is None or cut.cosines is None:
            out.mul_((gradient[rows] / self.total[rows])[:, None])
            own = self._diagonal(cut, out)
            if own is not None:
                own[1].sub_(gradient[own[0]], alpha=1 - self.smoothing)
            return out
        target, valid = self._targets(cut, cut.cosines)
        out.div_(self.total[rows, None]).masked_fill_(~valid, 0.0)
        out.addcmul_(target, ((self.smoothing - 1) / self.mass[rows, None]).expand_as(target))
        if self.smoothing:
            out.sub_(valid * (self.smoothing / self.count[rows, None]))
        return out.mul_(gradient[rows, None])

    def even_part(self, gradient: Tensor, rows: Tensor, columns: Tensor, to_rows: Tensor, to_columns: Tensor) -> None:
        """Take what smoothing gives to all columns out of `dA` and `dB`, where everybody is their own match."""
        if self.rule is not None or not self.smoothing:
            return
        even = self.smoothing / len(columns) * gradient
        to_rows.addr_(even, columns.sum(0), alpha=-1)
        to_columns.sub_(even @ rows)

    @staticmethod
    def _diagonal(cut: _Cut, of: Tensor) -> tuple[slice, Tensor] | None:
        """Everybody's own entry of a tile, and whose they are; None where the diagonal does not cross it."""
        ahead = cut.rows.start - cut.columns.start
        height, width = of.shape
        if not -height < ahead < width:
            return None
        found = of.diagonal(ahead)
        start = cut.rows.start + max(0, -ahead)
        return slice(start, start + len(found)), found

    def _targets(self, cut: _Cut, cosines: Tensor) -> tuple[Tensor, Tensor]:
        if self.rule is None:
            raise RuntimeError("contrast_tiled: targets were asked of a side that has no rule")
        target, valid = self.rule(cut.rows, cut.columns, cosines)
        return target.to(cut.scores.dtype).masked_fill(~valid, 0.0), valid


class _Sweeps(torch.autograd.Function):
    """a and b `[B, D]`, s to (losses, counted, hits) of rows, and the same of columns, `[B]` each."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, scale: Tensor, rule: Rule | None, back: Rule | None, smoothing: float
    ) -> tuple[Tensor, ...]:
        rows, row_norm = unit(a)
        columns, column_norm = unit(b)
        rows *= scale
        forth, other = (_Side(len(a), rows, one, smoothing) for one in (rule, back))
        ctx.asked = rule is not None or back is not None
        for cut in _tiles(rows, columns, scale, ctx.asked):
            forth.take_in(cut)
            other.take_in(cut.turned)
        found = (*forth.close(rows, columns), *other.close(columns, rows))
        ctx.mark_non_differentiable(*(value for value in found if value.dtype == torch.bool))
        ctx.save_for_backward(rows, columns, row_norm, column_norm, scale)
        ctx.sides = forth, other
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, columns, row_norm, column_norm, scale = ctx.saved_tensors
        forth, other = ctx.sides
        of_rows, of_columns = gradients[0], gradients[3]
        to_rows, to_columns = torch.zeros_like(rows), torch.zeros_like(columns)
        with torch.autocast(rows.device.type, enabled=False):
            for cut in _tiles(rows, columns, scale, ctx.asked):
                slope = forth.slope(cut, of_rows, cut.spare)
                slope += other.slope(cut.turned, of_columns, cut.scores.T).T
                to_rows[cut.rows].addmm_(slope, columns[cut.columns])
                to_columns[cut.columns].addmm_(slope.T, rows[cut.rows])
            forth.even_part(of_rows, rows, columns, to_rows, to_columns)
            other.even_part(of_columns, columns, rows, to_columns, to_rows)
            to_scale = through_norm(to_rows, rows, row_norm, scale) / scale
            through_norm(to_columns, columns, column_norm, torch.ones_like(scale))
        return to_rows, to_columns, to_scale.to(scale.dtype), None, None, None


def _tiles(rows: Tensor, columns: Tensor, scale: Tensor, asked: bool) -> Iterator[_Cut]:
    """All tiles of scores, one after the other in the same memory; with cosines if somebody asks for them."""
    height, width = tile_of(rows)
    size, count = len(rows), len(columns)
    room = [rows.new_empty(min(height, size) * min(width, count)) for _ in range(2)]
    for i in cuts(size, height):
        for j in cuts(count, width):
            shape = (i.stop - i.start, j.stop - j.start)
            scores, spare = (flat[: shape[0] * shape[1]].view(shape) for flat in room)
            torch.mm(rows[i], columns[j].T, out=scores)
            yield _Cut(i, j, scores, spare, scores / scale if asked else None)
