"""The vision transformer of MONAI, for volumes or images.

MONAI's `ViT` pools by its class token where it was made with `classification=True`. Without, it gives tokens and no
feature; pooling is the mean over the normalised patches then.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from domainvl.tokens import TokenState
from domainvl.towers._shared import Parts, first, lora_names, no_words, output_size, pick, prefixed
from domainvl.towers.base import Tower, Words

_LAYERS: Parts = {
    ("q", "k", "v"): ("attn.qkv",),
    ("o",): ("attn.out_proj",),
    ("up",): ("mlp.linear1",),
    ("down",): ("mlp.linear2",),
}


class MonaiViT(Tower):
    """`monai.networks.nets.ViT`.

    Args:
        model: The network; its weights are used in place.
        projection: Behind the model's own classification head, where there is one, into the shared space.
        path: Name of `model` inside the library's model, for `lora_targets`.
    """

    def __init__(self, model: Any, projection: nn.Module | None = None, path: str = "") -> None:
        super().__init__()
        if type(model).__name__ != "ViT" or not hasattr(model, "patch_embedding"):
            raise TypeError(f"MonaiViT: {type(model).__name__} is not supported; give monai.networks.nets.ViT")
        self.model = model
        self.path = path
        self.classifies = hasattr(model, "cls_token")
        self.head: nn.Module = model.classification_head if self.classifies else nn.Identity()
        self.projection = nn.Identity() if projection is None else projection
        self.width, self.depth = model.norm.normalized_shape[0], len(model.blocks)
        self.out_dim = output_size(nn.Sequential(self.head, self.projection), self.width)
        self._patch = _patch_size(model.patch_embedding)

    def embed(self, inputs: Tensor, words: Words | None = None) -> TokenState:
        """Volumes `[B, C, D, H, W]` (or images, if the model is for these) to patches, behind the class token."""
        no_words(self, words)
        tokens = self.model.patch_embedding(inputs)
        grid = tuple(size // patch for size, patch in zip(inputs.shape[2:], self._patch, strict=True))
        if not self.classifies:
            return TokenState(tokens, grid=grid)
        tokens = torch.cat([self.model.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        return TokenState(tokens, readout=first(tokens.shape[0], tokens.device), prefix=1, grid=grid)

    def block(self, index: int, state: TokenState) -> TokenState:
        """Run one block."""
        return state.step(self.model.blocks[index](state.tokens))

    @property
    def layers(self) -> Sequence[nn.Module]:
        """See `Tower.layers`."""
        return self.model.blocks

    def norm(self, tokens: Tensor) -> Tensor:
        """`norm`."""
        return self.model.norm(tokens)

    def pool(self, state: TokenState) -> Tensor:
        """The normalised class token, or the mean of the normalised patches; inserted tokens are left out."""
        if self.classifies:
            return self.norm(pick(state))
        return self.norm(state.original().tokens).mean(dim=1)

    def project(self, pooled: Tensor) -> Tensor:
        """The classification head, where there is one, and the projection."""
        return self.projection(self.head(pooled))

    def lora_targets(self, parts: Collection[str]) -> list[str]:
        """Names for PEFT's `target_modules`; q, k and v are one fused layer."""
        return lora_names(self, _LAYERS, prefixed(self.path, "blocks", self.depth), parts)


def _patch_size(embedding: Any) -> tuple[int, ...]:
    if embedding.proj_type == "conv":
        return tuple(embedding.patch_embeddings.kernel_size)
    axes = embedding.patch_embeddings[0].axes_lengths
    return tuple(axes[name] for name in ("p1", "p2", "p3") if name in axes)
