"""The few things that several processes have to agree on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def world() -> int:
    """Number of processes; 1 when training is not distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if world() > 1 else 0


def gather_objects(value: T) -> list[T]:
    """The values of all processes, in order of rank."""
    if world() == 1:
        return [value]
    values: list[T | None] = [None] * world()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def gather(rows: Tensor) -> Tensor:
    """Rows `[B, ...]` of all processes in order of rank, `[sum of B, ...]`; a process alone gets its own back.

    A gradient flows back to every process from all others, summed: each takes its rows out. Where every process takes
    the loss of its own rows, divided by the mean number of rows per process, the mean of gradients over processes is
    the gradient of one process with all rows. Processes may bring different numbers of rows.
    """
    if world() == 1:
        return rows
    sizes = gather_sizes(len(rows), rows.device)
    return _Gather.apply(rows, sizes)


def gather_sizes(size: int, device: torch.device) -> list[int]:
    """The number that every process names, in order of rank."""
    mine = torch.tensor([size], device=device)
    all_of_them = [torch.empty_like(mine) for _ in range(world())]
    dist.all_gather(all_of_them, mine)
    return [int(one) for one in torch.cat(all_of_them).tolist()]


def first_row(rows: Tensor) -> int:
    """Number, among the rows of all processes, of this process's first."""
    return 0 if world() == 1 else sum(gather_sizes(len(rows), rows.device)[: rank()])


class _Gather(torch.autograd.Function):
    """All rows forwards; the sum of gradients over processes, cut to one's own rows, backwards."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        # Not every backend sends truth values.
        sent = rows.detach().to(torch.uint8) if rows.dtype == torch.bool else rows.detach()
        (sent,) = _padded([sent], max(sizes))
        found = [torch.empty_like(sent, memory_format=torch.contiguous_format) for _ in sizes]
        dist.all_gather(found, sent.contiguous())
        return torch.cat([one[:size] for one, size in zip(found, sizes, strict=True)]).to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        parts = _padded(gradients[0].split(ctx.sizes), max(ctx.sizes))
        mine = torch.empty_like(parts[0], memory_format=torch.contiguous_format)
        dist.reduce_scatter_tensor(mine, torch.cat(parts))
        return mine[: ctx.sizes[rank()]], None


def _padded(parts: Sequence[Tensor], length: int) -> list[Tensor]:
    """The same parts `[n, ...]` with zeros behind, `[length, ...]` each."""
    return [torch.cat([x, x.new_zeros(length - len(x), *x.shape[1:])]) if len(x) < length else x for x in parts]
