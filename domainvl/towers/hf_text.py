"""BERT-like text encoders of transformers (BERT, RoBERTa, XLM-RoBERTa), bare or inside open_clip."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from domainvl.features import TextInputs
from domainvl.tokens import TokenState
from domainvl.towers._shared import (
    Parts,
    content_of,
    first,
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
from domainvl.towers.opened import Opened, open_bert

Pooling = Literal["cls", "mean", "pooler"]
"""The first token; the mean over real tokens; the first token through the model's own pooler."""

_PARTS: Parts = {
    ("q",): ("attention.self.query",),
    ("k",): ("attention.self.key",),
    ("v",): ("attention.self.value",),
    ("o",): ("attention.output.dense",),
    ("up",): ("intermediate.dense",),
    ("down",): ("output.dense",),
}


class HFText(Tower):
    """A BERT-like encoder.

    Args:
        model: A `BertModel`, `RobertaModel` or `XLMRobertaModel`; its weights are used in place.
        pooling: How tokens become one feature.
        projection: From `width` into the shared space; None leaves the feature as it is.
        path: Name of `model` inside the library's model, for `lora_targets`.
    """

    types: tuple[str, ...] = ("bert", "roberta", "xlm-roberta")

    def __init__(
        self, model: Any, pooling: Pooling = "cls", projection: nn.Module | None = None, path: str = ""
    ) -> None:
        super().__init__()
        self.encoder = model
        config = self.encoder.config
        decoder = " as decoder" if getattr(config, "is_decoder", False) else ""
        if config.model_type not in self.types or decoder:
            raise ValueError(
                f"{type(self).__name__}: model_type {config.model_type!r}{decoder} is not supported; supported "
                f"encoders are {', '.join(self.types)}"
            )
        if pooling not in ("cls", "mean", "pooler"):
            raise ValueError(f"HFText: pooling {pooling!r} is not one of cls, mean, pooler")
        if pooling == "pooler" and self.encoder.pooler is None:
            raise ValueError("HFText: pooling 'pooler' needs the model's pooling layer; this one was built without")
        self.pooling, self.path = pooling, path
        self.projection = nn.Identity() if projection is None else projection
        self.width, self.depth = config.hidden_size, config.num_hidden_layers
        self.out_dim = output_size(self.projection, self.width)
        # RoBERTa counts positions from behind its padding id.
        self.offset = 0 if config.model_type == "bert" else config.pad_token_id + 1
        self.context = config.max_position_embeddings - self.offset

    def embed(self, inputs: TextInputs, words: Words | None = None) -> TokenState:
        """Word embeddings, `words`, positions, the embeddings' own normalisation."""
        readout = None if self.pooling == "mean" else first(len(inputs), inputs.ids.device)
        state = TokenState(
            self.encoder.embeddings.word_embeddings(inputs.ids),
            keep=real(inputs.keep),
            readout=readout,
            prefix=1,
            content=content_of(inputs, 1, last_real(inputs)),
        )
        if words is not None:
            state = words(state, inputs)
        state = fit_context(self, state, self.context)
        return state.step(self.encoder.embeddings(inputs_embeds=state.tokens))

    def block(self, index: int, state: TokenState) -> TokenState:
        """Run one layer."""
        mask = hf_mask(self, state, self.encoder.config)
        return state.step(self.encoder.encoder.layer[index](state.tokens, mask))

    @property
    def layers(self) -> Sequence[nn.Module]:
        """See `Tower.layers`."""
        return self.encoder.encoder.layer

    def opened(self, index: int) -> Opened | None:
        """See `Tower.opened`."""
        return open_bert(self.layers[index])

    def norm(self, tokens: Tensor) -> Tensor:
        """Nothing: a BERT layer ends with its normalisation."""
        return tokens

    def pool(self, state: TokenState) -> Tensor:
        """First token or mean of the real tokens; inserted ones are left out."""
        if self.pooling == "cls":
            return pick(state)
        if self.pooling == "pooler":
            return self.encoder.pooler(pick(state)[:, None])
        state = state.original()
        tokens = state.tokens
        keep = torch.ones_like(tokens[..., 0]) if state.keep is None else state.keep.to(tokens.dtype)
        return (tokens * keep[..., None]).sum(dim=1) / keep.sum(dim=1, keepdim=True)

    def alone(self, tokens: Tensor) -> Tensor:
        """See `Tower.alone`; through the model's pooler where that pools."""
        if self.pooling != "pooler":
            return tokens
        return self.encoder.pooler(tokens.flatten(0, 1)[:, None]).unflatten(0, tokens.shape[:2])

    def project(self, pooled: Tensor) -> Tensor:
        """The projection."""
        return self.projection(pooled)

    def lora_targets(self, parts: Collection[str]) -> list[str]:
        """Every part is a layer of its own; give the names to PEFT as `target_modules`."""
        return lora_names(self, _PARTS, prefixed(self.path, "encoder.layer", self.depth), parts)
