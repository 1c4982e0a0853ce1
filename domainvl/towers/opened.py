"""A library's transformer block in two halves, so that fewer tokens may ask than are seen.

    normed = enter(tokens)              what attention reads
    seen = see(normed)                  keys and values; joined along the sequence, dimension -2
    read(tokens, normed, seen, mask)    the block's output for `tokens`, which attend to `seen`

With all tokens in both halves this is the block itself. The library's own modules are called, with whatever LoRA has
wrapped around them; where a block is built in a way that is not known here, `None` in place of an `Opened` says so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Seen = tuple[Tensor, ...]
"""What attention reads of some tokens; every tensor has the rows in front and the sequence in dimension -2."""


class Opened(ABC):
    """One block.

    Args:
        layer: The library's block.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    @abstractmethod
    def enter(self, tokens: Tensor) -> Tensor:
        """What attention reads of tokens, `[B, L, D]`."""

    @abstractmethod
    def see(self, normed: Tensor) -> Seen:
        """Keys and values of what `enter` gave."""

    @abstractmethod
    def read(self, tokens: Tensor, normed: Tensor, seen: Seen, mask: Tensor | None) -> Tensor:
        """The block's output for tokens `[B, Q, D]`, with an additive mask `[B or 1, 1, Q, L]`."""

    @abstractmethod
    def shares(self, normed: Tensor, everything: Tensor, mask: Tensor | None) -> Tensor:
        """How much tokens `[B, Q, D]` attend to `everything` `[B, L, D]`, by head, `[B, H, Q, L]`; rows sum to 1."""

    def read_few(self, tokens: Tensor, normed: Tensor, everything: Tensor, mask: Tensor | None) -> Tensor:
        """As `read`, for few tokens that see `everything`, what `enter` gave of all tokens, `[B, L, D]`."""
        return self.read(tokens, normed, self.see(everything), mask)


class TransformersLayer(Opened):
    """A block of CLIP or SigLIP of transformers: norm in front, q, k and v apart."""

    def enter(self, tokens: Tensor) -> Tensor:
        """`layer_norm1`."""
        return self.layer.layer_norm1(tokens)

    def see(self, normed: Tensor) -> Seen:
        """`k_proj` and `v_proj`."""
        attention = self.layer.self_attn
        return tuple(_heads(part(normed), attention.num_heads) for part in (attention.k_proj, attention.v_proj))

    def read(self, tokens: Tensor, normed: Tensor, seen: Seen, mask: Tensor | None) -> Tensor:
        """`q_proj`, attention, `out_proj`, then the MLP."""
        return self._close(tokens, _attend(self._ask(normed), seen, mask, self.layer.self_attn.scale))

    def shares(self, normed: Tensor, everything: Tensor, mask: Tensor | None) -> Tensor:
        """See `Opened.shares`."""
        return _shares(self._ask(normed), self.see(everything)[0], mask, self.layer.self_attn.scale)

    def read_few(self, tokens: Tensor, normed: Tensor, everything: Tensor, mask: Tensor | None) -> Tensor:
        """See `Opened.read_few`: (q W_k) x for q (W_k x), so no key or value is computed where few tokens ask."""
        attention = self.layer.self_attn
        key, value, heads = attention.k_proj, attention.v_proj, attention.num_heads
        # Beyond that many the two ways cost the same. LoRA layers and the like have to be called.
        many = 2 * heads * tokens.shape[1] > tokens.shape[2]
        if many or type(key) is not nn.Linear or type(value) is not nn.Linear:
            return super().read_few(tokens, normed, everything, mask)
        query = _heads(attention.q_proj(normed), heads)
        asked = (query @ key.weight.unflatten(0, (heads, -1))).flatten(1, 2)
        # The bias of keys shifts all scores of a query alike, which the softmax forgets.
        scores = attention.scale * (asked @ everything.transpose(1, 2)).unflatten(1, (heads, -1))
        shares = (scores if mask is None else scores + mask).softmax(dim=-1)
        mixed = (shares.flatten(1, 2) @ everything).unflatten(1, (heads, -1))
        attended = mixed @ value.weight.unflatten(0, (heads, -1)).transpose(1, 2)
        attended = attended.transpose(1, 2).flatten(2)
        return self._close(tokens, attended if value.bias is None else attended + value.bias)

    def _ask(self, normed: Tensor) -> Tensor:
        attention = self.layer.self_attn
        return _heads(attention.q_proj(normed), attention.num_heads)

    def _close(self, tokens: Tensor, attended: Tensor) -> Tensor:
        tokens = tokens + self.layer.self_attn.out_proj(attended)
        return tokens + self.layer.mlp(self.layer.layer_norm2(tokens))


class BertLayer(Opened):
    """A block of BERT or RoBERTa of transformers: norms behind, q, k and v apart."""

    def enter(self, tokens: Tensor) -> Tensor:
        """Nothing: the norm is at the end of the block below."""
        return tokens

    def see(self, normed: Tensor) -> Seen:
        """`key` and `value`."""
        inner = self.layer.attention.self
        return tuple(_heads(part(normed), inner.num_attention_heads) for part in (inner.key, inner.value))

    def read(self, tokens: Tensor, normed: Tensor, seen: Seen, mask: Tensor | None) -> Tensor:
        """`query`, attention with its output layer, then the MLP with its own."""
        attended = _attend(self._ask(normed), seen, mask, self.layer.attention.self.scaling)
        return self.layer.feed_forward_chunk(self.layer.attention.output(attended, tokens))

    def shares(self, normed: Tensor, everything: Tensor, mask: Tensor | None) -> Tensor:
        """See `Opened.shares`."""
        return _shares(self._ask(normed), self.see(everything)[0], mask, self.layer.attention.self.scaling)

    def _ask(self, normed: Tensor) -> Tensor:
        inner = self.layer.attention.self
        return _heads(inner.query(normed), inner.num_attention_heads)


class OpenClipBlock(Opened):
    """A `ResidualAttentionBlock` of open_clip.

    Its q, k and v are one weight inside torch's attention, so what is seen are normed tokens, and their keys and values
    are computed for every row again.
    """

    def enter(self, tokens: Tensor) -> Tensor:
        """`ln_1`."""
        return self.layer.ln_1(tokens)

    def see(self, normed: Tensor) -> Seen:
        """The tokens themselves."""
        return (normed,)

    def read(self, tokens: Tensor, normed: Tensor, seen: Seen, mask: Tensor | None) -> Tensor:
        """Attention across, then the MLP."""
        layer, (keys,) = self.layer, seen
        tokens = tokens + layer.ls_1(layer.attention(normed, keys, keys, attn_mask=self._mask(mask)))
        return tokens + layer.ls_2(layer.mlp(layer.ln_2(tokens)))

    def shares(self, normed: Tensor, everything: Tensor, mask: Tensor | None) -> Tensor:
        """See `Opened.shares`."""
        options = {"need_weights": True, "average_attn_weights": False, "attn_mask": self._mask(mask)}
        found: Tensor = self.layer.attn(normed, everything, everything, **options)[1]
        return found

    def _mask(self, mask: Tensor | None) -> Tensor | None:
        """In the shape that torch's attention takes, `[Q, L]` or `[B * heads, Q, L]`."""
        if mask is None or mask.shape[0] == 1:
            return None if mask is None else mask[0, 0]
        # PEFT may have wrapped the attention for LoRA on its fused weight.
        heads = getattr(self.layer.attn, "base_layer", self.layer.attn).num_heads
        return mask[:, 0].repeat_interleave(heads, dim=0)


class TimmBlock(Opened):
    """A `Block` of timm's ViT. Its q, k and v are one layer, which is run once more for the tokens that ask."""

    def enter(self, tokens: Tensor) -> Tensor:
        """`norm1`."""
        return self.layer.norm1(tokens)

    def see(self, normed: Tensor) -> Seen:
        """The last two thirds of `qkv`."""
        attention = self.layer.attn
        _, key, value = (_heads(part, attention.num_heads) for part in attention.qkv(normed).chunk(3, dim=-1))
        return attention.k_norm(key), value

    def read(self, tokens: Tensor, normed: Tensor, seen: Seen, mask: Tensor | None) -> Tensor:
        """The first third of `qkv`, attention, `proj`, then the MLP."""
        layer, attention = self.layer, self.layer.attn
        tokens = tokens + layer.ls1(attention.proj(_attend(self._ask(normed), seen, mask, attention.scale)))
        return tokens + layer.ls2(layer.mlp(layer.norm2(tokens)))

    def shares(self, normed: Tensor, everything: Tensor, mask: Tensor | None) -> Tensor:
        """See `Opened.shares`."""
        return _shares(self._ask(normed), self.see(everything)[0], mask, self.layer.attn.scale)

    def _ask(self, normed: Tensor) -> Tensor:
        attention = self.layer.attn
        return attention.q_norm(_heads(attention.qkv(normed).chunk(3, dim=-1)[0], attention.num_heads))


def open_transformers(layer: Any) -> Opened | None:
    """For CLIP and SigLIP; not with attention dropout at work."""
    dropped = layer.training and layer.self_attn.dropout > 0
    return None if dropped else TransformersLayer(layer)


def open_bert(layer: Any) -> Opened | None:
    """For BERT and RoBERTa; not with attention dropout at work, nor where layers are chunked or cross-attend."""
    dropped = layer.training and layer.attention.self.dropout.p > 0
    plain = layer.chunk_size_feed_forward == 0 and not layer.add_cross_attention
    return BertLayer(layer) if plain and not dropped else None


def open_openclip(layer: Any) -> Opened | None:
    """For the block that open_clip's CLIP models have; its variants (CustomResidualAttentionBlock) stay closed."""
    from open_clip.transformer import ResidualAttentionBlock

    return OpenClipBlock(layer) if type(layer) is ResidualAttentionBlock else None


def open_timm(layer: Any) -> Opened | None:
    """For the plain ViT block; blocks with rotary positions, gates, an inner norm or dropout at work stay closed."""
    from timm.layers import Attention
    from timm.models.vision_transformer import Block

    if type(layer) is not Block or type(layer.attn) is not Attention:
        return None
    attention = layer.attn
    plain = getattr(attention, "gate", None) is None and isinstance(getattr(attention, "norm", None), nn.Identity)
    random = layer.training and any(isinstance(part, nn.Dropout) and part.p > 0 for part in layer.modules())
    still = isinstance(layer.drop_path1, nn.Identity) or not layer.training
    return TimmBlock(layer) if plain and still and not random else None


def joined(*parts: Seen) -> Seen:
    """One sequence from several; a part with a single row goes to all rows."""
    rows = max(part[0].shape[0] for part in parts)
    return tuple(
        torch.cat([one.expand(rows, *one.shape[1:]) for one in same], dim=-2) for same in zip(*parts, strict=True)
    )


def _heads(tokens: Tensor, heads: int) -> Tensor:
    """`[B, L, D]` to `[B, H, L, D / H]`."""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def _shares(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    scores = scale * query @ key.transpose(-2, -1)
    return (scores if mask is None else scores + mask).softmax(dim=-1)


def _attend(query: Tensor, seen: Seen, mask: Tensor | None, scale: float) -> Tensor:
    """Attention over all heads, `[B, Q, D]`."""
    key, value = seen
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale).transpose(1, 2).flatten(2)
