"""A queue: features of earlier batches, more columns for contrastive losses than a batch has rows.

It starts empty and hands out only what was put in: random vectors to begin with would be negatives that mean nothing.
Who a row belongs to is kept beside its features, so that rules about false negatives hold for the queue too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Queue(nn.Module):
    """The last `size` rows of every feature that some objective reads as `queue/...`.

    Args:
        size: Most rows that are kept.
    """

    _end: Tensor
    _count: Tensor

    def __init__(self, size: int = 4096) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"Queue: size is {size}; it must be at least 1")
        self.size = size
        self._keys: list[str] = []
        self.register_buffer("_end", torch.zeros((), dtype=torch.long))
        self.register_buffer("_count", torch.zeros((), dtype=torch.long))

    def attach(self, rows: Mapping[str, Tensor]) -> None:
        """Make room for these keys, shaped like these examples `[B, ...]`."""
        self._keys = sorted(rows)
        for number, key in enumerate(self._keys):
            example = rows[key].detach()
            self.register_buffer(f"rows_{number}", example.new_zeros(self.size, *example.shape[1:]))

    @property
    def keys(self) -> list[str]:
        """What is kept."""
        return list(self._keys)

    def rows(self) -> dict[str, Tensor]:
        """Everything that is there, `[M, ...]`, M at most `size`; in no order, but the same one for every key."""
        count = int(self._count)
        return {key: getattr(self, f"rows_{number}")[:count].clone() for number, key in enumerate(self._keys)}

    @torch.no_grad()
    def push(self, rows: Mapping[str, Tensor]) -> None:
        """Put a batch in, `[B, ...]` each; of more than `size` rows the last ones."""
        end = int(self._end)
        for number, key in enumerate(self._keys):
            fresh = rows[key].detach()[-self.size :]
            places = (torch.arange(len(fresh), device=fresh.device) + end) % self.size
            getattr(self, f"rows_{number}")[places] = fresh
        length = min(self.size, len(rows[self._keys[0]])) if self._keys else 0
        self._end.fill_((end + length) % self.size)
        self._count.fill_(min(self.size, int(self._count) + length))
