"""A 2-D tower over the slices of a volume; the volume's feature is the mean over its slices.

Every slice is a row of its own, `TokenState.parts` of which make one volume, so a method that puts tokens between
blocks puts them into every slice. What is learned across slices is an adapter: `SliceAttention`, `SliceTransformer`,
`STAdapter` and `SideTuning` start as this mean.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from domainvl.tokens import TokenState
from domainvl.towers._shared import no_words
from domainvl.towers.base import Tower, Words
from domainvl.towers.opened import Opened

_COLOURS = 3


class Slices(Tower):
    """A 2-D tower, slice by slice.

    Args:
        tower: Any image tower, CNNs included.
        chunk: Most slices that go through a block at a time, which bounds memory; None for all.
    """

    def __init__(self, tower: Tower, chunk: int | None = None) -> None:
        super().__init__()
        if chunk is not None and chunk < 1:
            raise ValueError(f"Slices: chunk must be positive or null, got {chunk}")
        if isinstance(tower, Slices):
            raise TypeError("Slices: this tower takes slices already")
        self.tower, self.chunk = tower, chunk
        self.width, self.depth, self.out_dim = tower.width, tower.depth, tower.out_dim
        self.token_editing = tower.token_editing

    def embed(self, inputs: Tensor, words: Words | None = None) -> TokenState:
        """Volumes `[B, C, D, H, W]` to a row for each slice, `[B * D, L, width]`; C is 1 or 3 windows."""
        no_words(self, words)
        if inputs.dim() != 5 or inputs.shape[1] not in (1, _COLOURS):
            raise ValueError(
                f"Slices: expected volumes [B, C, D, H, W] with one or three windows C, got {tuple(inputs.shape)}"
            )
        count = inputs.shape[2]
        rows = inputs.transpose(1, 2).flatten(0, 1).expand(-1, _COLOURS, -1, -1)
        states = [self.tower.embed(part) for part in rows.split(self.chunk or len(rows))]
        readouts = [state.readout for state in states if state.readout is not None]
        return replace(
            states[0],
            tokens=torch.cat([state.tokens for state in states]),
            readout=torch.cat(readouts) if readouts else None,
            parts=count,
        )

    def enter(self, tokens: Tensor) -> Tensor:
        """See `Tower.enter`."""
        return self.tower.enter(tokens)

    def block(self, index: int, state: TokenState) -> TokenState:
        """Run one block of the 2-D tower."""
        rows = state.tokens.split(self.chunk or len(state.tokens))
        done = [self.tower.block(index, replace(state, tokens=part, readout=None)).tokens for part in rows]
        return state.step(done[0] if len(done) == 1 else torch.cat(done))

    @property
    def layers(self) -> Sequence[nn.Module]:
        """See `Tower.layers`."""
        return self.tower.layers

    def opened(self, index: int) -> Opened | None:
        """See `Tower.opened`; not in chunks."""
        return self.tower.opened(index) if self.chunk is None else None

    def norm(self, tokens: Tensor) -> Tensor:
        """See `Tower.norm`."""
        return self.tower.norm(tokens)

    def per_slice(self, state: TokenState) -> Tensor:
        """The pooled feature of every slice, `[B, D, width]`."""
        return self.tower.pool(state).unflatten(0, (-1, state.parts))

    def pool(self, state: TokenState) -> Tensor:
        """The mean over slices."""
        return self.per_slice(state).mean(dim=1)

    def alone(self, tokens: Tensor) -> Tensor:
        """See `Tower.alone`: as in the 2-D tower."""
        return self.tower.alone(tokens)

    def locals(self, state: TokenState) -> tuple[Tensor, Tensor]:
        """See `Tower.locals`: the patches of all slices in one row per volume."""
        tokens, mask = super().locals(state)
        return (
            tokens.unflatten(0, (-1, state.parts)).flatten(1, 2),
            mask.unflatten(0, (-1, state.parts)).flatten(1, 2),
        )

    def local_grid(self, state: TokenState) -> tuple[int, ...] | None:
        """See `Tower.local_grid`: slices, rows and columns."""
        return None if state.grid is None else (state.parts, *state.grid)

    @property
    def pooled_width(self) -> int:
        """See `Tower.pooled_width`."""
        return self.tower.pooled_width

    def project(self, pooled: Tensor) -> Tensor:
        """The 2-D tower's own projection."""
        return self.tower.project(pooled)

    def lora_targets(self, parts: Collection[str]) -> list[str]:
        """See `Tower.lora_targets`: names inside the 2-D library's model."""
        return self.tower.lora_targets(parts)
