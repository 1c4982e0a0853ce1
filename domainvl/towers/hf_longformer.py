"""Longformer of transformers as a text encoder (Beltagy et al., arXiv 2004.05150): attention within a window.

Without tokens of global attention, as Merlin runs it, its layers are those of a RoBERTa in which a token sees those
that lie at most half a window away. That is computed here with a mask, which costs nothing up to a window's length and
keeps inserted tokens possible; it equals the library's chunks up to the order of sums. Global attention is not
supported.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from domainvl.tokens import TokenState
from domainvl.towers.hf_text import HFText
from domainvl.towers.opened import Opened


class HFLongformer(HFText):
    """A `LongformerModel`; see `HFText` for its arguments."""

    types = ("longformer",)

    def block(self, index: int, state: TokenState) -> TokenState:
        """Run one layer."""
        layer = cast(Any, self.layers[index])
        attention = layer.attention.self
        query, key, value = (
            part(state.tokens).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for part in (attention.query, attention.key, attention.value)
        )
        dropout = attention.dropout if attention.training else 0.0
        mask = _windowed(state, attention.one_sided_attn_window_size)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        tokens = layer.attention.output(mixed.transpose(1, 2).flatten(2), state.tokens)
        return state.step(layer.ff_chunk(tokens))

    def opened(self, index: int) -> Opened | None:
        """See `Tower.opened`: closed."""
        return None


def _windowed(state: TokenState, reach: int) -> Tensor | None:
    """The state's mask, further away than `reach` nothing."""
    mask = state.mask()
    if state.length <= reach + 1:
        return mask
    place = torch.arange(state.length, device=state.tokens.device)
    far = (place[:, None] - place[None]).abs() > reach
    near = torch.zeros(far.shape, dtype=state.tokens.dtype, device=far.device).masked_fill(far, -torch.inf)
    return near[None, None] if mask is None else mask + near
