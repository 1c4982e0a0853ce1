"""Convolutional networks of timm: features and a pooled readout, no blocks into which tokens could be put."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from domainvl.tokens import TokenState
from domainvl.towers._shared import no_words, output_size
from domainvl.towers.base import Tower, Words


class TimmCNN(Tower):
    """A CNN of timm (ResNet, ConvNeXt, EfficientNet ...): `depth` is 0 and token adapters refuse it.

    Args:
        model: Made by `timm.create_model`; its weights are used in place.
        projection: Behind the model's own classifier (which is nothing when made with `num_classes=0`),
        into the
            shared space.
        path: Name of `model` inside the library's model.
    """

    token_editing = False

    def __init__(self, model: Any, projection: nn.Module | None = None, path: str = "") -> None:
        super().__init__()
        self.model = model
        self.path = path
        self.projection = nn.Identity() if projection is None else projection
        self.depth = 0
        self.width = self.model.num_features
        self.out_dim = output_size(nn.Sequential(self.model.get_classifier(), self.projection), self.pooled_width)

    def embed(self, inputs: Tensor, words: Words | None = None) -> TokenState:
        """Pixels `[B, C, H, W]` to the last feature map as tokens `[B, H' W', width]`."""
        no_words(self, words)
        features = self.model.forward_features(inputs)
        if features.dim() != 4 or features.shape[1] != self.width:
            raise TypeError(
                f"TimmCNN: {type(self.model).__name__} gives features of shape {tuple(features.shape)}, not "
                f"the map [B, {self.width}, H, W] of a CNN; TimmViT takes plain vision transformers"
            )
        return TokenState(features.flatten(2).transpose(1, 2), grid=tuple(features.shape[2:]))

    def block(self, index: int, state: TokenState) -> TokenState:
        """There are none."""
        raise IndexError(f"TimmCNN has no block {index}: its depth is 0")

    def norm(self, tokens: Tensor) -> Tensor:
        """Nothing: a CNN that normalises does so behind its pooling."""
        return tokens

    def pool(self, state: TokenState) -> Tensor:
        """The model's own pooling."""
        if state.grid is None:
            raise RuntimeError("TimmCNN.pool: the state has no grid; it must come from TimmCNN.embed")
        return self.model.forward_head(state.tokens.transpose(1, 2).unflatten(2, state.grid), pre_logits=True)

    def alone(self, tokens: Tensor) -> Tensor:
        """The model's own pooling of every cell of its last feature map by itself."""
        cells = self.model.forward_head(tokens.flatten(0, 1)[..., None, None], pre_logits=True)
        return cells.unflatten(0, tokens.shape[:2])

    @property
    def pooled_width(self) -> int:
        """See `Tower.pooled_width`: some heads have a hidden layer in front of the classifier."""
        return getattr(self.model, "head_hidden_size", self.width) or self.width

    def project(self, pooled: Tensor) -> Tensor:
        """The model's classifier and the projection."""
        return self.projection(self.model.get_classifier()(pooled))

    def lora_targets(self, parts: Collection[str]) -> list[str]:
        """A CNN has none of these layers."""
        raise ValueError(
            f"TimmCNN.lora_targets: {sorted(parts)} are layers of a transformer, "
            f"{type(self.model).__name__} has none; use LinearProbe with this backbone"
        )
