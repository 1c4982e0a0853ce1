"""SigLIP of transformers: `SiglipModel`, which SigLIP 2 of fixed resolution uses too.

SigLIP 2 NaFlex (`Siglip2Model`) is not supported: it takes lists of patches of images of any shape.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from domainvl.features import TextInputs
from domainvl.tokens import TokenState
from domainvl.towers._shared import content_of, fit_fixed, hf_mask, lora_names, no_words, pick, same_end
from domainvl.towers.base import Tower, Words
from domainvl.towers.hf_clip import HF_PARTS
from domainvl.towers.opened import Opened, open_transformers

if TYPE_CHECKING:
    from transformers import SiglipModel


class HFSiglipImage(Tower):
    """Image encoder of a transformers `SiglipModel`: no class token, pooled by attention.

    Args:
        model: The whole model; its weights are used in place.
    """

    def __init__(self, model: SiglipModel) -> None:
        super().__init__()
        self.vision = model.vision_model
        if not self.vision.use_head:
            raise ValueError(
                "HFSiglipImage: this model has no pooling head (vision_use_head is false), so it gives no image feature"
            )
        config: Any = model.config.vision_config
        self.width, self.depth = config.hidden_size, config.num_hidden_layers
        self.out_dim = self.width
        side = config.image_size // config.patch_size
        self.grid = (side, side)

    def embed(self, inputs: Tensor, words: Words | None = None) -> TokenState:
        """Pixels `[B, C, H, W]` to patches."""
        no_words(self, words)
        return TokenState(self.vision.embeddings(inputs), grid=self.grid)

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
        """Attention pooling over the patches; inserted tokens are left out."""
        return self.vision.head(self.norm(state.original().tokens))

    def alone(self, tokens: Tensor) -> Tensor:
        """The pooling head's answer to a picture of this patch alone."""
        return self.vision.head(self.norm(tokens).flatten(0, 1)[:, None]).unflatten(0, tokens.shape[:2])

    def project(self, pooled: Tensor) -> Tensor:
        """Nothing: the pooling head ends in the shared space."""
        return pooled

    def lora_targets(self, parts: Collection[str]) -> list[str]:
        """Every part is a layer of its own; give the names to PEFT as `target_modules`."""
        return lora_names(self, HF_PARTS, [f"vision_model.encoder.layers.{i}" for i in range(self.depth)], parts)


class HFSiglipText(Tower):
    """Text encoder of a transformers `SiglipModel`: bidirectional, reads its padding, pooled at the last position.

    Args:
        model: The whole model; its weights are used in place.
    """

    def __init__(self, model: SiglipModel) -> None:
        super().__init__()
        self.text = model.text_model
        config: Any = model.config.text_config
        self.width, self.depth = config.hidden_size, config.num_hidden_layers
        self.out_dim = self.text.head.out_features
        self.context = config.max_position_embeddings

    def embed(self, inputs: TextInputs, words: Words | None = None) -> TokenState:
        """Word embeddings, `words` in the place of padding, positions."""
        state = TokenState(
            self.text.embeddings.token_embedding(inputs.ids),
            keep=None if inputs.keep is None else inputs.keep.bool(),
            content=content_of(inputs, 0, same_end(inputs.ids)),
        )
        if words is not None:
            state = words(state, inputs)
        state = fit_fixed(self, state, inputs.ids, self.context)
        return state.step(self.text.embeddings(inputs_embeds=state.tokens))

    def block(self, index: int, state: TokenState) -> TokenState:
        """Run one encoder layer."""
        mask = hf_mask(self, state, self.text.config)
        return state.step(self.text.encoder.layers[index](state.tokens, mask))

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
        """The normalised last token."""
        return self.norm(pick(state))

    def project(self, pooled: Tensor) -> Tensor:
        """The linear head."""
        return self.text.head(pooled)

    def lora_targets(self, parts: Collection[str]) -> list[str]:
        """Every part is a layer of its own; give the names to PEFT as `target_modules`."""
        return lora_names(self, HF_PARTS, [f"text_model.encoder.layers.{i}" for i in range(self.depth)], parts)
