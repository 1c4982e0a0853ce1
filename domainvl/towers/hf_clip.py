"""CLIP of transformers: `CLIPModel`'s image and text encoders."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from domainvl.features import TextInputs
from domainvl.tokens import TokenState
from domainvl.towers._shared import (
    Parts,
    begin_alike,
    content_of,
    first,
    fit_context,
    hf_mask,
    lora_names,
    no_words,
    pick,
    prefixed,
    real,
)
from domainvl.towers.base import Tower, Words
from domainvl.towers.opened import Opened, open_transformers

if TYPE_CHECKING:
    from transformers import CLIPModel

HF_PARTS: Parts = {
    ("q",): ("self_attn.q_proj",),
    ("k",): ("self_attn.k_proj",),
    ("v",): ("self_attn.v_proj",),
    ("o",): ("self_attn.out_proj",),
    ("up",): ("mlp.fc1",),
    ("down",): ("mlp.fc2",),
}
"""Layers of one block of CLIP and SigLIP as transformers names them."""


class HFClipImage(Tower):
    """Image encoder of a transformers `CLIPModel`.

    Args:
        model: The model, whole or without its texts; its weights are used in place.
        path: Name of `model` inside the library's model, for `lora_targets`.
    """

    def __init__(self, model: CLIPModel, path: str = "") -> None:
        super().__init__()
        self.path = path
        self.vision = model.vision_model
        self.projection = model.visual_projection
        config: Any = model.config.vision_config
        self.width, self.depth = config.hidden_size, config.num_hidden_layers
        self.out_dim = model.visual_projection.out_features
        side = config.image_size // config.patch_size
        self.grid = (side, side)

    def embed(self, inputs: Tensor, words: Words | None = None) -> TokenState:
        """Pixels `[B, C, H, W]` to class token and patches."""
        no_words(self, words)
        tokens = self.enter(self.vision.embeddings(inputs))
        return TokenState(tokens, readout=first(tokens.shape[0], tokens.device), prefix=1, grid=self.grid)

    def enter(self, tokens: Tensor) -> Tensor:
        """`pre_layrnorm`."""
        return self.vision.pre_layrnorm(tokens)

    def block(self, index: int, state: TokenState) -> TokenState:
        """Run one encoder layer."""
        mask = hf_mask(self, state, self.vision.config)
        return state.step(self.vision.encoder.layers[index](state.tokens, mask))

    @property
    def layers(self) -> Sequence[nn.Module]:
        """See `Tower.layers`."""
        return self.vision.encoder.layers

    def opened(self, index: int) -> Opened | None:
        """See `Tower.opened`."""
        return open_transformers(self.layers[index])

    def norm(self, tokens: Tensor) -> Tensor:
        """`post_layernorm`."""
        return self.vision.post_layernorm(tokens)

    def pool(self, state: TokenState) -> Tensor:
        """The normalised class token."""
        return self.norm(pick(state))

    def project(self, pooled: Tensor) -> Tensor:
        """`visual_projection`."""
        return self.projection(pooled)

    def lora_targets(self, parts: Collection[str]) -> list[str]:
        """Every part is a layer of its own; give the names to PEFT as `target_modules`."""
        return lora_names(self, HF_PARTS, prefixed(self.path, "vision_model.encoder.layers", self.depth), parts)


class HFClipText(Tower):
    """Text encoder of a transformers `CLIPModel`: causal, pooled at the end-of-text token.

    Args:
        model: The whole model; its weights are used in place.
    """

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.text = model.text_model
        self.projection = model.text_projection
        config: Any = model.config.text_config
        self.width, self.depth = config.hidden_size, config.num_hidden_layers
        self.out_dim = model.text_projection.out_features
        self.context = config.max_position_embeddings

    def embed(self, inputs: TextInputs, words: Words | None = None) -> TokenState:
        """Word embeddings, `words`, positions."""
        readout = self.end_of_text(inputs.ids)
        state = TokenState(
            self.text.embeddings.token_embedding(inputs.ids),
            keep=real(inputs.keep),
            causal=True,
            readout=readout,
            prefix=1,
            content=content_of(inputs, 1, readout),
            shared=begin_alike(inputs.ids, inputs.keep, readout),
        )
        if words is not None:
            state = words(state, inputs)
        state = fit_context(self, state, self.context)
        return state.step(self.text.embeddings(inputs_embeds=state.tokens))

    def end_of_text(self, ids: Tensor) -> Tensor:
        """Position of the token that is pooled, `[B]`."""
        # Checkpoints from before transformers 4.31 carry a wrong id, 2; there the highest id is the end of
        # text.
        if self.text.eos_token_id == 2:
            return ids.argmax(dim=-1)
        return (ids == self.text.eos_token_id).int().argmax(dim=-1)

    def block(self, index: int, state: TokenState) -> TokenState:
        """Run one encoder layer."""
        mask = hf_mask(self, state, self.text.config)
        return state.step(self.text.encoder.layers[index](state.tokens, mask, is_causal=state.causal))

    @property
    def layers(self) -> Sequence[nn.Module]:
        """See `Tower.layers`."""
        return self.text.encoder.layers

    def opened(self, index: int) -> Opened | None:
        """See `Tower.opened`."""
        return open_transformers(self.layers[index])

    def norm(self, tokens: Tensor) -> Tensor:
        """`final_layer_norm`."""
        return self.text.final_layer_norm(tokens)

    def pool(self, state: TokenState) -> Tensor:
        """The normalised end-of-text token."""
        return self.norm(pick(state))

    def project(self, pooled: Tensor) -> Tensor:
        """`text_projection`."""
        return self.projection(pooled)

    def lora_targets(self, parts: Collection[str]) -> list[str]:
        """Every part is a layer of its own; give the names to PEFT as `target_modules`."""
        return lora_names(self, HF_PARTS, [f"text_model.encoder.layers.{i}" for i in range(self.depth)], parts)
