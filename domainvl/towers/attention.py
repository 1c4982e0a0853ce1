"""How much the pooled token takes from each token of its own, as the last block's attention says."""

from __future__ import annotations

import torch
from torch import Tensor

from domainvl.tokens import TokenState
from domainvl.towers.base import Tower
from domainvl.towers.locals import own_tokens
from domainvl.towers.shortcuts import picked, rows_of


@torch.no_grad()
def attention_of(tower: Tower, state: TokenState) -> Tensor | None:
    """Attention of the pooled token, the mean over heads, `[B, L]`, in the order of `own_tokens`.

    What it gives to itself, to other special tokens and to inserted ones is left out, so a row sums to less than 1.

    Args:
        tower: The tower.
        state: What enters its last block.

    Returns:
        None where no single token is pooled (of a volume, one of each slice is), where the tower has no local features,
        or where its last block cannot be opened.
    """
    block = tower.opened(tower.depth - 1) if tower.has_locals else None
    if block is None or state.readout is None or state.parts > 1:
        return None
    index = state.readout[:, None]
    normed = block.enter(state.tokens)
    shares = block.shares(picked(normed, index), normed, rows_of(state.mask(), index)).mean(dim=1)
    own, _ = own_tokens(state.step(shares.transpose(1, 2)))
    return own[..., 0].float()
