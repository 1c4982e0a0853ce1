"""A tower whose work is done: states that hold what it said, so that adapters read them like any other."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from domainvl.tokens import TokenState
from domainvl.towers._shared import pick
from domainvl.towers.base import Tower, Words


class Finished(Tower):
    """Reads states that `said` made. Only the projection is left to do.

    Args:
        tower: The tower that did the work.
    """

    token_editing = False

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        # In a tuple, so that its weights are not registered once more.
        self._tower = (tower,)
        self.width, self.depth, self.out_dim = tower.width, 0, tower.out_dim

    def embed(self, inputs: Any, words: Words | None = None) -> TokenState:
        """Not here."""
        raise TypeError("Finished.embed: this tower reads what was computed before; use the tower itself")

    def block(self, index: int, state: TokenState) -> TokenState:
        """There are none."""
        raise IndexError(f"Finished has no block {index}: its work is done")

    def norm(self, tokens: Tensor) -> Tensor:
        """Done before."""
        return tokens

    def pool(self, state: TokenState) -> Tensor:
        """What was pooled."""
        return pick(state)

    def project(self, pooled: Tensor) -> Tensor:
        """The projection of the tower."""
        return self._tower[0].project(pooled)

    def lora_targets(self, parts: Collection[str]) -> list[str]:
        """There are none."""
        raise TypeError("Finished.lora_targets: this tower has no layers")


def said(pooled: Tensor, tokens: Tensor | None = None, content: Tensor | None = None) -> TokenState:
    """A state for `Finished`: what `alone` gave of all tokens, `[B, L, width]`, and behind it what `pool` gave."""
    if tokens is None or content is None:
        return TokenState(pooled[:, None], readout=torch.zeros(len(pooled), dtype=torch.long, device=pooled.device))
    last = torch.full((len(pooled),), tokens.shape[1], dtype=torch.long, device=pooled.device)
    behind = F.pad(tokens, (0, 0, 0, 1))
    behind[:, -1] = pooled
    return TokenState(behind, readout=last, content=content)
