"""Language models of transformers as text encoders (LLM2Vec, BehnamGhader et al., COLM 2024, arXiv 2404.05961).

Llama, Mistral, Qwen2, Qwen3 and Gemma 2, without their causal mask: every token sees every other. The library's layers
are called with a mask of our own, so weights, names and LoRA stay those of the library. What is pooled is the text:
special tokens and an instruction in front of it are read and left out of the mean (`TextInputs.pooled`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from domainvl.features import TextInputs
from domainvl.tokens import TokenState
from domainvl.towers._shared import (
    Parts,
    fit_context,
    hf_mask,
    last_real,
    lora_names,
    output_size,
    pick,
    prefixed,
    real,
)
from domainvl.towers.base import Tower, Words
from domainvl.towers.latent_attention import LatentAttention
from domainvl.towers.locals import own_tokens

LLM_TYPES = ("gemma2", "llama", "mistral", "qwen2", "qwen3")
LLMPooling = Literal["mean", "last", "latent"]
"""The mean of the text's tokens; the last real token; the mean behind latent attention."""

_PARTS: Parts = {
    ("q",): ("self_attn.q_proj",),
    ("k",): ("self_attn.k_proj",),
    ("v",): ("self_attn.v_proj",),
    ("o",): ("self_attn.o_proj",),
    ("up",): ("mlp.gate_proj", "mlp.up_proj"),
    ("down",): ("mlp.down_proj",),
}


class HFLanguageModel(Tower):
    """A decoder-only language model.

    Args:
        model: The model without its head (`LlamaModel` and the like); its weights are used in place.
        pooling: How tokens become one feature.
        projection: From `width` into the shared space; None leaves the feature as it is.
        path: Name of `model` inside the library's model, for `lora_targets`.
        causal: Keep the causal mask, so that a token sees only those in front of it.
        latent: The pooling module; with pooling `latent` alone.
    """

    def __init__(
        self,
        model: Any,
        pooling: LLMPooling = "mean",
        projection: nn.Module | None = None,
        path: str = "",
        causal: bool = False,
        latent: LatentAttention | None = None,
    ) -> None:
        super().__init__()
        config = model.config
        if config.model_type not in LLM_TYPES:
            raise ValueError(
                f"HFLanguageModel: model_type {config.model_type!r} is not supported; supported are "
                f"{', '.join(LLM_TYPES)}"
            )
        if pooling not in ("mean", "last", "latent"):
            raise ValueError(f"HFLanguageModel: pooling {pooling!r} is not one of mean, last, latent")
        if (pooling == "latent") != (latent is not None):
            raise ValueError(
                f"HFLanguageModel: pooling {pooling!r} with latent={type(latent).__name__}; pooling latent needs a "
                "LatentAttention, the others take none"
            )
        self.model = model
        self.pooling, self.path, self.causal, self.latent = pooling, path, causal, latent
        self.projection = nn.Identity() if projection is None else projection
        self.width, self.depth = config.hidden_size, config.num_hidden_layers
        self.out_dim = output_size(self.projection, self.width)
        # Within its window a sliding layer is an ordinary one.
        self.context = min(config.max_position_embeddings, getattr(config, "sliding_window", None) or 1 << 30)

    def embed(self, inputs: TextInputs, words: Words | None = None) -> TokenState:
        """Word embeddings and `words`; positions are rotations inside the blocks."""
        content = _content(inputs)
        state = TokenState(
            self.model.embed_tokens(inputs.ids),
            keep=real(inputs.keep),
            causal=self.causal,
            readout=last_real(inputs) if self.pooling == "last" else None,
            prefix=_begin(inputs, content),
            content=content,
        )
        if words is not None:
            state = words(state, inputs)
        return fit_context(self, state, self.context)

    def block(self, index: int, state: TokenState) -> TokenState:
        """Run one layer, with positions counted over all tokens, inserted ones included."""
        positions = torch.arange(state.length, device=state.tokens.device)[None]
        done = self.model.layers[index](
            state.tokens,
            attention_mask=hf_mask(self, state, self.model.config),
            position_ids=positions,
            position_embeddings=self.model.rotary_emb(state.tokens, positions),
            is_causal=state.causal,
        )
        return state.step(done)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """See `Tower.layers`."""
        return self.model.layers

    def norm(self, tokens: Tensor) -> Tensor:
        """The final norm."""
        return self.model.norm(tokens)

    def alone(self, tokens: Tensor) -> Tensor:
        """See `Tower.alone`; through latent attention where that pools."""
        normed = self.norm(tokens)
        return normed if self.latent is None else self.latent(normed)

    def pool(self, state: TokenState) -> Tensor:
        """The last token, or the mean over the text; nothing (zeros) of a text without a token."""
        if self.pooling == "last":
            return self.norm(pick(state))
        tokens, mask = own_tokens(state)
        said = self.alone(tokens) * mask[..., None]
        return said.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1)

    def project(self, pooled: Tensor) -> Tensor:
        """The projection."""
        return self.projection(pooled)

    def lora_targets(self, parts: Collection[str]) -> list[str]:
        """Every part is a layer of its own, `up` is two; give the names to PEFT as `target_modules`."""
        return lora_names(self, _PARTS, prefixed(self.path, "layers", self.depth), parts)


def _content(inputs: TextInputs) -> Tensor:
    """Which ids are the text, `[B, L]`. Only the tokenizer knows special ones, as models differ in them."""
    if inputs.pooled is not None:
        return inputs.pooled
    if inputs.sentences is not None:
        return inputs.sentences >= 0
    return torch.ones_like(inputs.ids, dtype=torch.bool) if inputs.keep is None else inputs.keep.bool()


def _begin(inputs: TextInputs, content: Tensor) -> int:
    """Number of leading tokens that are special, or an instruction, in every text; 0 with padding in front."""
    before = ~content if inputs.keep is None else ~content & inputs.keep.bool()
    return int(before.all(dim=0).long().cumprod(dim=0).sum())
