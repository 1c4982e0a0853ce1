"""The contrastive kernel: cross-entropy over rows of scaled cosines, with soft targets, validity and weights.

    l_ij = s cos(a_i, b_j)        q_i = softmax of l_i over the columns with V_ij
    loss = sum_i w_i (- sum_j P_ij log q_ij) / N,    N = sum_i w_i, or the number of rows

P is normalised over the valid columns of a row; a row without a target is left out of sum and N alike. Invalid columns
are removed with minus infinity. Everything is fp32 at least (bf16 cannot tell 100 from 100.4), autocast or not. P, V
and w carry no gradient.

The symmetric loss is half the loss of the rows and half that of the columns, whose targets are the rows of P^T,
normalised again, unless they are given.

In distributed training rows are local and columns global, and N is the mean over processes, so that averaged gradients
are those of one process with the whole batch: also where processes keep different numbers of rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from domainvl.objectives.base import Context, Gather, alone
from domainvl.objectives.contrast_parts import Contrast, Rule, WeightNorm, halves, own, row_mean, wide
from domainvl.objectives.contrast_strips import contrast_one_way
from domainvl.objectives.contrast_tiled import contrast_symmetric

TILED_FROM = 2**24
"""Number of scores above which they are never all in memory."""
TILED_FROM_ON_CPU = 2**21
"""The same on a CPU, where tiles that stay in its cache are faster from there on."""


def contrast(
    a: Tensor,
    b: Tensor,
    scale: Tensor | float,
    targets: Tensor | Rule | None = None,
    valid: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    back: Rule | None = None,
    symmetric: bool = False,
    offset: int = 0,
    label_smoothing: float = 0.0,
    weight_norm: WeightNorm = "sum",
    gather: Gather = alone,
    tiled: bool | None = None,
) -> Contrast:
    """Compare rows with columns.

    Args:
        a: Rows `[B, D]`, not normalised.
        b: Columns `[M, D]`, not normalised.
        scale: s.
        targets: P `[B, M]`, a rule that makes P and V tile by tile, or None: column `offset + i` is the target of
            row i.
        valid: V `[B, M]` bool beside a tensor of targets or none.
        weights: w `[B]`.
        back: The rule for columns against rows, where `targets` is a rule and the loss symmetric.
        symmetric: Half the loss of the rows, half of the columns; needs B = M and offset 0.
        offset: See `targets`.
        label_smoothing: Share of the target that is spread evenly over the valid columns.
        weight_norm: What N is: the sum of the weights or the number of rows.
        gather: Makes N a mean over processes.
        tiled: Never hold all scores: more time, far less memory. None: from `TILED_FROM` scores on.
    """
    _check(a, b, targets, valid, weights, symmetric, back, offset)
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"contrast: label_smoothing must be at least 0 and below 1, got {label_smoothing}")
    if tiled is None:
        tiled = a.shape[0] * b.shape[0] > (TILED_FROM_ON_CPU if a.device.type == "cpu" else TILED_FROM)
    rule, back_rule = targets, back
    if not callable(rule):
        rule, back_rule = _rules(rule, valid, a, b, offset, symmetric)
    with torch.autocast(a.device.type, enabled=False):
        a, b = wide(a), wide(b)
        scale = torch.as_tensor(scale, device=a.device, dtype=a.dtype)
        if tiled and symmetric:
            return contrast_symmetric(a, b, scale, rule, back_rule, weights, label_smoothing, weight_norm, gather)
        if tiled:
            return contrast_one_way(a, b, scale, rule, weights, offset, label_smoothing, weight_norm, gather)
        cosines = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T
        logits = scale * cosines
        forth = _directed(logits, cosines, rule, weights, offset, label_smoothing, weight_norm, gather)
        if not symmetric:
            return forth
        other = _directed(logits.T, cosines.T, back_rule, weights, offset, label_smoothing, weight_norm, gather)
        return halves(forth, other)


def both_ways(
    a: Tensor,
    b: Tensor,
    context: Context,
    *,
    columns: tuple[Tensor, Tensor] | None = None,
    rules: tuple[Rule | None, Rule | None] = (None, None),
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    weight_norm: WeightNorm = "sum",
    tiled: bool | None = None,
) -> Contrast:
    """Half the loss of a against b, half of b against a; local rows, global columns.

    One sweep does both where nothing but this batch takes part.

    Args:
        a: Local rows `[B, D]`.
        b: Their partners `[B, D]`.
        context: Scale, gather and offset.
        columns: What b and what a are compared with, `[M, D]` each, where that is not simply all of a and of b; their
            first rows belong to the pairs of all processes.
        rules: Targets of a against b and of b against a.
        weights: Of the local pairs, `[B]`.
        label_smoothing: See `contrast`.
        weight_norm: See `contrast`.
        tiled: See `contrast`.
    """
    whole = (context.gather(a), context.gather(b)) if columns is None else columns
    if whole[0] is a and whole[1] is b and (rules[0] is None) == (rules[1] is None):
        return contrast(
            a,
            b,
            context.scale,
            rules[0],
            weights=weights,
            back=rules[1],
            symmetric=True,
            label_smoothing=label_smoothing,
            weight_norm=weight_norm,
            gather=context.gather,
            tiled=tiled,
        )
    ways = [
        contrast(
            rows,
            against,
            context.scale,
            rule,
            weights=weights,
            offset=context.offset,
            label_smoothing=label_smoothing,
            weight_norm=weight_norm,
            gather=context.gather,
            tiled=tiled,
        )
        for rows, against, rule in ((a, whole[1], rules[0]), (b, whole[0], rules[1]))
    ]
    return halves(*ways)


def contrast_logits(
    logits: Tensor,
    targets: Tensor | None = None,
    valid: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    offset: int = 0,
    label_smoothing: float = 0.0,
    weight_norm: WeightNorm = "sum",
    gather: Gather = alone,
) -> Contrast:
    """The same for scores `[B, M]` that somebody else made, one way; see `contrast`."""
    logits = wide(logits)
    size = logits.shape[0]
    if targets is None and valid is None:
        index = torch.arange(size, device=logits.device) + offset
        each = F.cross_entropy(logits, index, label_smoothing=label_smoothing, reduction="none")
        kept = torch.ones_like(index, dtype=torch.bool)
        hit = logits.detach().argmax(1) == index
    else:
        target, valid = _whole(targets, valid, logits, offset)
        total = target.sum(1, keepdim=True)
        kept = total.squeeze(1) > 0
        target = target / total.clamp_min(torch.finfo(target.dtype).tiny)
        # A row that is left out keeps all its columns: a softmax over nothing has no gradient, not even times zero.
        scores = logits.masked_fill(~valid & kept[:, None], -torch.inf)
        hit = target.gather(1, scores.detach().argmax(1, keepdim=True)).squeeze(1) > 0
        if label_smoothing:
            even = valid.to(target.dtype)
            target = (1 - label_smoothing) * target + label_smoothing * (even / even.sum(1, keepdim=True).clamp_min(1))
        each = -(target * scores.log_softmax(1).masked_fill(target == 0, 0.0)).sum(1)
    return row_mean(each, kept, hit, weights, weight_norm, gather)


def dense(targets: Tensor, valid: Tensor) -> Rule:
    """The rule that cuts tiles out of P and V `[B, M]`."""

    def rule(rows: slice, columns: slice, cosines: Tensor) -> tuple[Tensor, Tensor]:
        return targets[rows, columns], valid[rows, columns]

    return rule


def _directed(
    logits: Tensor,
    cosines: Tensor,
    rule: Rule | None,
    weights: Tensor | None,
    offset: int,
    label_smoothing: float,
    weight_norm: WeightNorm,
    gather: Gather,
) -> Contrast:
    target = valid = None
    if rule is not None:
        size, count = logits.shape
        with torch.no_grad():
            target, valid = rule(slice(0, size), slice(0, count), cosines.detach())
    return contrast_logits(
        logits,
        target,
        valid,
        weights,
        offset=offset,
        label_smoothing=label_smoothing,
        weight_norm=weight_norm,
        gather=gather,
    )


def _whole(targets: Tensor | None, valid: Tensor | None, like: Tensor, offset: int) -> tuple[Tensor, Tensor]:
    """P, zero where V is False, and V; both of the shape and the first of the dtype of `like`."""
    if targets is None:
        rows, columns = (slice(0, size) for size in like.shape)
        targets = own(rows, columns, offset, like.device)
    targets = targets.detach().to(like.dtype)
    if valid is None:
        return targets, torch.ones_like(targets, dtype=torch.bool)
    return targets.masked_fill(~valid, 0.0), valid


def _rules(
    targets: Tensor | None, valid: Tensor | None, a: Tensor, b: Tensor, offset: int, symmetric: bool
) -> tuple[Rule | None, Rule | None]:
    """The rules behind tensors of targets and validity."""
    if targets is None and valid is None:
        return None, None
    like = wide(a.detach()).new_empty(()).expand(len(a), len(b))
    target, valid = _whole(targets, valid, like, offset)
    if not symmetric:
        return dense(target, valid), None
    back = target / target.sum(1, keepdim=True).clamp_min(torch.finfo(target.dtype).tiny)
    return dense(target, valid), dense(back.T, valid.T)


def _check(
    a: Tensor,
    b: Tensor,
    targets: Tensor | Rule | None,
    valid: Tensor | None,
    weights: Tensor | None,
    symmetric: bool,
    back: Rule | None,
    offset: int,
) -> None:
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"contrast: wants [B, D] and [M, D], got {tuple(a.shape)} and {tuple(b.shape)}")
    size, count = a.shape[0], b.shape[0]
    for name, given in (("targets", targets), ("valid", valid)):
        if isinstance(given, Tensor) and given.shape != (size, count):
            raise ValueError(f"contrast: {name} of shape {tuple(given.shape)}, wanted [{size}, {count}]")
    if weights is not None and weights.shape != (size,):
        raise ValueError(f"contrast: weights of shape {tuple(weights.shape)}, wanted [{size}]")
    if callable(targets) and valid is not None:
        raise ValueError("contrast: a rule makes validity as well; give no valid beside it")
    if (callable(targets) and symmetric and back is None) or (back is not None and not callable(targets)):
        raise ValueError("contrast: a symmetric loss takes a rule for rows (targets) and one for columns (back)")
    if symmetric and (size != count or offset):
        raise ValueError(
            f"contrast: the symmetric loss wants as many columns as rows and no offset, got {size} rows, {count} "
            f"columns, offset {offset}; use both_ways"
        )
    if targets is None and offset + size > count:
        raise ValueError(f"contrast: rows {offset} to {offset + size} have no column among {count}")
