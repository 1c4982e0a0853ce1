"""Towers of open_clip: its own ViT and text transformer, in CLIP, CustomTextCLIP and CoCa.

Models of open_clip that are built from other libraries (SigLIP's timm trunk, BiomedCLIP's timm trunk with PubMedBERT)
take `TimmViT`, `TimmCNN` and `HFText`; `open_clip_towers` picks the pair.

LoRA: `nn.MultiheadAttention` keeps q, k and v in one parameter, so `lora_targets` gives the name of a parameter,
`...attn.in_proj_weight`; PEFT wants it as `target_parameters`, all other names as `target_modules`. The output
projection is not offered there: its weight goes straight into a fused kernel, and a LoRA layer in its place would
never be called. PEFT compares the ends of names, and `CLIP` has its text blocks at `transformer.resblocks`, which is
how `visual.transformer.resblocks` ends: whoever updates the text alone has to exclude the image's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from domainvl.features import TextInputs
from domainvl.tokens import TokenState
from domainvl.towers._shared import (
    Parts,
    begin_alike,
    content_of,
    first,
    fit_context,
    fit_fixed,
    lora_names,
    no_words,
    pick,
    prefixed,
    real,
    same_end,
)
from domainvl.towers.base import Tower, Words
from domainvl.towers.hf_text import HFText, Pooling
from domainvl.towers.opened import Opened, open_openclip
from domainvl.towers.timm_vit import timm_tower

_POOLERS: dict[str, Pooling] = {
    "ClsLastHiddenStatePooler": "cls",
    "ClsPooler": "cls",
    "MeanPooler": "mean",
}


class OpenClipImage(Tower):
    """open_clip's own `VisionTransformer`.

    CoCa pools by attention into vectors of the shared size, so there a pooled feature has `out_dim` values
    and not `width`, and `norm` is what its pooling applies to every token first.

    Args:
        visual: The image encoder; its weights are used in place.
        path: Name of `visual` inside the library's model, for `lora_targets`.
    """

    def __init__(self, visual: Any, path: str = "visual") -> None:
        super().__init__()
        self.visual = visual
        self.path = path
        if not isinstance(self.visual.patch_dropout, nn.Identity):
            raise ValueError("OpenClipImage: dropped patches lose the grid; build the model with patch_dropout=0")
        if self.visual.attn_pool is not None and self.visual.attn_pool_contrastive is not None:
            raise ValueError(
                f"OpenClipImage: attentional_pool={self.visual.attn_pool_type!r} is not supported, only true (CoCa)"
            )
        if self.visual.attn_pool is None and self.visual.pool_type not in ("tok", "avg"):
            raise ValueError(f"OpenClipImage: pool_type {self.visual.pool_type!r} is not one of tok, avg")
        self.width, self.depth = self.visual.transformer.width, len(self.visual.transformer.resblocks)
        self.out_dim = self.visual.output_dim if self.visual.proj is None else self.visual.proj.shape[1]

    def embed(self, inputs: Tensor, words: Words | None = None) -> TokenState:
        """Pixels `[B, C, H, W]` to class token and patches."""
        no_words(self, words)
        tokens = self.visual._embeds(inputs)
        by_class_token = self.visual.attn_pool is None and self.visual.pool_type == "tok"
        readout = first(tokens.shape[0], tokens.device) if by_class_token else None
        return TokenState(tokens, readout=readout, prefix=1, grid=tuple(self.visual.grid_size))

    def enter(self, tokens: Tensor) -> Tensor:
        """`ln_pre`."""
        return self.visual.ln_pre(tokens)

    def block(self, index: int, state: TokenState) -> TokenState:
        """Run one residual block."""
        return state.step(_call(self.visual.transformer.resblocks[index], state.tokens, state.mask()))

    @property
    def layers(self) -> Sequence[nn.Module]:
        """See `Tower.layers`."""
        return self.visual.transformer.resblocks

    def opened(self, index: int) -> Opened | None:
        """See `Tower.opened`."""
        return open_openclip(self.layers[index])

    def norm(self, tokens: Tensor) -> Tensor:
        """`ln_post`; for CoCa the normalisation in front of its attention pooling."""
        pooling = self.visual.attn_pool
        return self.visual.ln_post(tokens) if pooling is None else pooling.ln_k(tokens)

    def pool(self, state: TokenState) -> Tensor:
        """The model's own pooling; inserted tokens are left out."""
        return self.visual._pool(state.original().tokens)[0]

    def alone(self, tokens: Tensor) -> Tensor:
        """See `Tower.alone`; CoCa's attention pooling answers to a picture of this patch alone."""
        pooling = self.visual.attn_pool
        if pooling is None:
            return self.norm(tokens)
        seen = self.norm(tokens).flatten(0, 1)[:, None]
        # Every query gets the same from a single key, so one is enough.
        query = pooling.ln_q(pooling.query[:1]).expand(len(seen), 1, -1)
        return self.visual.ln_post(pooling.attn(query, seen, seen, need_weights=False)[0][:, 0]).unflatten(
            0, tokens.shape[:2]
        )

    @property
    def pooled_width(self) -> int:
        """See `Tower.pooled_width`: CoCa pools into vectors of the shared size."""
        return self.width if self.visual.attn_pool is None else self.visual.ln_post.normalized_shape[0]

    def project(self, pooled: Tensor) -> Tensor:
        """The matrix `proj`."""
        return pooled if self.visual.proj is None else pooled @ self.visual.proj

    def lora_targets(self, parts: Collection[str]) -> list[str]:
        """See the module's docstring: `in_proj_weight` is for PEFT's `target_parameters`."""
        blocks = self.visual.transformer.resblocks
        return lora_names(self, _parts(blocks[0]), prefixed(self.path, "transformer.resblocks", self.depth), parts)


class OpenClipText(Tower):
    """open_clip's own text transformer.

    Three kinds: causal and pooled at the end of text (CLIP), causal with a class token behind the text
    (CoCa), and bidirectional, pooled at the last position (SigLIP). The last two read their padding, so
    texts keep one length.

    Args:
        model: `CLIP` (whose text parts lie on the model itself) or a `TextTransformer`; its weights are
        used in place. path: Name of `model` inside the library's model, for `lora_targets`.

    Attributes:
        fixed_length: Whether texts must be padded to `context`.
    """

    def __init__(self, model: Any, path: str = "") -> None:
        super().__init__()
        self.path = path
        self.transformer, self.token_embedding = model.transformer, model.token_embedding
        self.ln_final = model.ln_final
        # The very objects of the model, so that training and moving them reaches it.
        self.positional_embedding = model.positional_embedding
        self.text_projection = model.text_projection
        self.cls_emb = getattr(model, "cls_emb", None)
        self.causal = model.attn_mask is not None
        self.pool_type = model.text_pool_type if hasattr(model, "text_pool_type") else model.pool_type
        self.eos_id = model.text_eos_id if hasattr(model, "text_eos_id") else model.eos_id
        self.pad_id = getattr(model, "pad_id", 0)
        self.reads_mask = self.cls_emb is not None or getattr(model, "use_pad_mask", False)
        self.class_mask_in_front = not getattr(model, "correct_cls_mask", False)
        if self.cls_emb is None and self.pool_type not in ("argmax", "eos", "first", "last"):
            raise ValueError(f"OpenClipText: pool_type {self.pool_type!r} is not one of argmax, eos, first, last")
        self.width, self.depth = self.transformer.width, len(self.transformer.resblocks)
        self.context = model.context_length
        self.fixed_length = self.cls_emb is not None or self.pool_type == "last" or not self.causal
        if isinstance(self.text_projection, nn.Linear):
            self.out_dim = self.text_projection.out_features
        else:
            self.out_dim = self.width if self.text_projection is None else self.text_projection.shape[1]

    def embed(self, inputs: TextInputs, words: Words | None = None) -> TokenState:
        """Word embeddings, `words`, CoCa's class token, positions."""
        ids = inputs.ids
        keep = ids != self.pad_id if self.reads_mask else real(inputs.keep)
        starts = 0 if self.pool_type == "last" else 1
        readout = self.end_of_text(ids)
        state = TokenState(
            self.token_embedding(ids),
            keep=keep,
            causal=self.causal,
            readout=readout,
            prefix=starts,
            content=content_of(inputs, starts, self._end(inputs)),
            shared=begin_alike(ids, keep, readout) if self.causal else 0,
        )
        if words is not None:
            state = words(state, inputs)
        if self.cls_emb is not None:
            state = self._with_class_token(fit_context(self, state, self.context))
        elif self.pool_type == "last":
            state = fit_fixed(self, state, ids, self.context)
        else:
            state = fit_context(self, state, self.context)
        return state.step(state.tokens + self.positional_embedding[: state.length])

    def block(self, index: int, state: TokenState) -> TokenState:
        """Run one residual block."""
        mask = state.mask() if self.cls_emb is None else _strict_mask(state)
        return state.step(_call(self.transformer.resblocks[index], state.tokens, mask))

    @property
    def layers(self) -> Sequence[nn.Module]:
        """See `Tower.layers`."""
        return self.transformer.resblocks

    def opened(self, index: int) -> Opened | None:
        """See `Tower.opened`."""
        return open_openclip(self.layers[index]) if self.cls_emb is None else None

    def norm(self, tokens: Tensor) -> Tensor:
        """`ln_final`."""
        return self.ln_final(tokens)

    def pool(self, state: TokenState) -> Tensor:
        """The normalised token at the readout position."""
        return self.norm(pick(state))

    def project(self, pooled: Tensor) -> Tensor:
        """The text projection, a matrix or a linear layer."""
        if self.text_projection is None:
            return pooled
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection(pooled)
        return pooled @ self.text_projection

    def lora_targets(self, parts: Collection[str]) -> list[str]:
        """See the module's docstring: `in_proj_weight` is for PEFT's `target_parameters`."""
        blocks = prefixed(self.path, "transformer.resblocks", self.depth)
        return lora_names(self, _parts(self.transformer.resblocks[0]), blocks, parts)

    def end_of_text(self, ids: Tensor) -> Tensor | None:
        """Position that is pooled, `[B]`; None where it is the last one of a fixed length."""
        if self.cls_emb is not None or self.pool_type == "last":
            return None
        if self.pool_type == "first":
            return first(len(ids), ids.device)
        if self.pool_type == "eos":
            return (ids == self.eos_id).int().argmax(dim=-1)
        return ids.argmax(dim=-1)

    def _end(self, inputs: TextInputs) -> Tensor:
        """Where the text of every row ends, `[B]`: at its end of text, or where its end and padding begin."""
        if self.cls_emb is None and self.pool_type == "last":
            return same_end(inputs.ids)
        if self.cls_emb is None and self.pool_type == "eos":
            return (inputs.ids == self.eos_id).int().argmax(dim=-1)
        # The highest id is the end of text.
        return inputs.ids.argmax(dim=-1)

    def _with_class_token(self, state: TokenState) -> TokenState:
        if state.keep is None or self.cls_emb is None:
            raise RuntimeError("OpenClipText: a class token needs the mask of its text")
        batch = state.tokens.shape[0]
        tokens = torch.cat([state.tokens, self.cls_emb.expand(batch, 1, -1)], dim=1)
        one = state.keep.new_ones(batch, 1)
        # The published CoCa weights were trained with the mask shifted by one; open_clip keeps that, so do
        # we.
        keep = [one, state.keep] if self.class_mask_in_front else [state.keep, one]
        last = torch.full((batch,), state.length, dtype=torch.long, device=tokens.device)
        return replace(state, tokens=tokens, keep=torch.cat(keep, dim=1), readout=last, _mask=None)


def open_clip_towers(model: Any) -> tuple[Tower, OpenClipText | HFText]:
    """Image and text tower of any supported open_clip model."""
    return _image_tower(model.visual), _text_tower(model)


def _image_tower(visual: Any) -> Tower:
    kind = type(visual).__name__
    if kind == "VisionTransformer":
        return OpenClipImage(visual)
    if kind == "TimmModel":
        if "pool" in visual.head._modules:
            raise TypeError(
                "open_clip_towers: TimmModel with timm_pool abs_attn or rot_attn is not supported; "
                "supported are the poolings of timm itself (avg, token, map)"
            )
        return timm_tower(visual.trunk, visual.head, "visual.trunk")
    raise TypeError(
        f"open_clip_towers: the image encoder {kind} is not supported; supported are VisionTransformer and TimmModel"
    )


def _text_tower(model: Any) -> OpenClipText | HFText:
    text = getattr(model, "text", None)
    if text is None:
        return OpenClipText(model)
    kind = type(text).__name__
    if kind == "TextTransformer":
        return OpenClipText(text, "text")
    if kind == "HFTextEncoder":
        pooler = type(text.pooler).__name__
        if pooler not in _POOLERS:
            raise TypeError(
                f"open_clip_towers: {pooler} of HFTextEncoder is not supported; supported are {', '.join(_POOLERS)}"
            )
        pooling = _POOLERS[pooler]
        if pooler == "ClsPooler" and text.pooler.use_pooler_output and text.transformer.pooler is not None:
            pooling = "pooler"
        return HFText(text.transformer, pooling, text.proj, "text.transformer")
    raise TypeError(
        f"open_clip_towers: the text encoder {kind} is not supported; supported are open_clip's own text "
        "transformer and HFTextEncoder"
    )


def _strict_mask(state: TokenState) -> Tensor:
    """As `state.mask()`, but padding does not see itself: CoCa's class token counts as padding."""
    if state.keep is None:
        raise RuntimeError("OpenClipText: the state lost its mask")
    length = state.length
    visible = torch.ones(length, length, dtype=torch.bool, device=state.tokens.device).tril()
    visible = visible & state.keep[:, None, :]
    return torch.zeros_like(visible, dtype=state.tokens.dtype).masked_fill(~visible, -torch.inf)[:, None]


def _call(block: Any, tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Run a block with a mask `[B or 1, 1, L, L]` in the shape that open_clip takes."""
    if mask is None:
        return block(tokens)
    if mask.shape[0] == 1:
        return block(tokens, attn_mask=mask[0, 0])
    # PEFT may have wrapped the attention for LoRA on its fused weight; the wrapper hides the attention's attributes.
    heads = getattr(block.attn, "base_layer", block.attn).num_heads
    return block(tokens, attn_mask=mask[:, 0].repeat_interleave(heads, dim=0))


def _parts(block: Any) -> Parts:
    table: dict[tuple[str, ...], tuple[str, ...]] = {("q", "k", "v"): ("attn.in_proj_weight",)}
    if not isinstance(block.attn, nn.MultiheadAttention):
        table[("o",)] = ("attn.out_proj",)
    return table | {("up",): ("mlp.c_fc",), ("down",): ("mlp.c_proj",)}
