"""What the forms of the contrastive kernel share; see `domainvl.objectives.contrast`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from domainvl.objectives.base import Gather

Rule = Callable[[slice, slice, Tensor], tuple[Tensor, Tensor]]
"""Targets and validity of a tile: (rows, columns, cosines `[r, c]` without gradient) to (P `[r, c]`, not normalised;
V `[r, c]` bool). What it returns must not depend on how the matrix is cut."""

WeightNorm = Literal["sum", "rows"]


CPU_TILE, DEVICE_TILE = (512, 1024), (4096, 8192)
"""Rows and columns of a tile: two (scores, exponentials) stay in a core's cache, while a GPU wants large products."""


class Contrast(NamedTuple):
    """What `contrast` gives.

    Attributes:
        loss: The scalar.
        accuracy: Share of rows (and columns, if symmetric) whose best valid partner is a target; detached.
    """

    loss: Tensor
    accuracy: Tensor


def row_sum(kept: Tensor, weights: Tensor | None, dtype: torch.dtype, norm: WeightNorm, gather: Gather) -> Tensor:
    """N: the weights, or the number, of the rows `[B]` that are kept; the mean over processes."""
    rows = kept.to(dtype)
    counted = rows if weights is None or norm == "rows" else torch.where(kept, weights.detach().to(dtype), 0.0)
    return gather(counted.sum().reshape(1)).mean().clamp_min(torch.finfo(dtype).tiny)


def row_shares(kept: Tensor, weights: Tensor | None, dtype: torch.dtype, norm: WeightNorm, gather: Gather) -> Tensor:
    """`w_i / N` of the rows `[B]`, zero where a row is not kept."""
    share = kept.to(dtype) if weights is None else torch.where(kept, weights.detach().to(dtype), 0.0)
    return share / row_sum(kept, weights, dtype, norm, gather)


def row_mean(
    each: Tensor, kept: Tensor, hit: Tensor, weights: Tensor | None, norm: WeightNorm, gather: Gather
) -> Contrast:
    """The loss of rows `[B]` that each have one."""
    loss = (row_shares(kept, weights, each.dtype, norm, gather) * each).sum()
    return Contrast(loss, row_accuracy(hit, kept))


def row_accuracy(hit: Tensor, kept: Tensor) -> Tensor:
    """Share of the kept rows `[B]` that hit."""
    return (hit & kept).sum() / kept.sum().clamp_min(1)


def halves(one: Contrast, other: Contrast) -> Contrast:
    """The mean of two directions."""
    return Contrast((one.loss + other.loss) / 2, (one.accuracy + other.accuracy) / 2)


def wide(x: Tensor) -> Tensor:
    """At least fp32."""
    return x if x.dtype == torch.float64 else x.float()


def own(rows: slice, columns: slice, offset: int, device: torch.device) -> Tensor:
    """Which entries of a tile belong to a row's own column, `[r, c]`."""
    i = torch.arange(rows.start, rows.stop, device=device) + offset
    return i[:, None] == torch.arange(columns.start, columns.stop, device=device)


def cuts(size: int, step: int) -> list[slice]:
    """Slices of at most `step` that cover `size`."""
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def tile_of(x: Tensor) -> tuple[int, int]:
    """Rows and columns of a tile on the device of x."""
    return CPU_TILE if x.device.type == "cpu" else DEVICE_TILE


def sum_type(x: Tensor) -> torch.dtype:
    """What long sums are kept in; Apple's GPUs have no fp64."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of length one, and what they were divided by, `[n, 1]`."""
    norm = x.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return x / norm, norm


def through_norm(gradient: Tensor, rows: Tensor, norm: Tensor, scale: Tensor) -> Tensor:
    """Turn the gradient of `rows` = s x/|x| into that of x, in place; returns its product with the rows."""
    dtype = sum_type(gradient)
    total = torch.zeros((), dtype=dtype, device=gradient.device)
    for part in cuts(len(gradient), 128):
        along = (gradient[part].to(dtype) * rows[part]).sum(1, keepdim=True)
        total += along.sum()
        gradient[part].addcmul_((along / scale.to(dtype) ** 2).to(gradient.dtype), rows[part], value=-1)
        gradient[part] *= scale / norm[part]
    return total
