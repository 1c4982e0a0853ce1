"""Vision transformers of timm: `VisionTransformer` (ViT, DeiT, DINOv2), its distilled form, and `Eva` (EVA-02, DINOv3).

Not supported, refused by name: relative positions, mixed and multimodal rotary embeddings, NaFlex, hierarchical
transformers (Swin and the like), patch dropout.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from domainvl.tokens import TokenState
from domainvl.towers._shared import Parts, first, lora_names, no_words, output_size, prefixed
from domainvl.towers.base import Tower, Words
from domainvl.towers.convnet import TimmCNN
from domainvl.towers.opened import Opened, open_timm

_LAYERS = (
    (("q", "k", "v"), ("attn.qkv",)),
    (("q",), ("attn.q_proj",)),
    (("k",), ("attn.k_proj",)),
    (("v",), ("attn.v_proj",)),
    (("o",), ("attn.proj",)),
    (("up",), ("mlp.fc1",)),
    (("up",), ("mlp.fc1_g", "mlp.fc1_x")),
    (("down",), ("mlp.fc2",)),
)


class TimmViT(Tower):
    """A vision transformer of timm.

    Args:
        model: Made by `timm.create_model`; its weights are used in place.
        projection: Behind the model's own head (which is nothing when made with `num_classes=0`), into the
        shared
            space.
        path: Name of `model` inside the library's model, for `lora_targets`.
    """

    def __init__(self, model: Any, projection: nn.Module | None = None, path: str = "") -> None:
        super().__init__()
        _refuse_unsupported(model)
        self.model = model
        self.path = path
        self.projection = nn.Identity() if projection is None else projection
        self.width, self.depth = self.model.embed_dim, len(self.model.blocks)
        self.out_dim = output_size(nn.Sequential(self.model.head, self.projection), self.width)
        self.rotary = getattr(model, "rope", None) is not None

    def embed(self, inputs: Tensor, words: Words | None = None) -> TokenState:
        """Pixels `[B, C, H, W]` to class token, registers and patches."""
        no_words(self, words)
        model = self.model
        patches = model.patch_embed(inputs)
        grid = tuple(model.patch_embed.dynamic_feat_size(inputs.shape[-2:]))
        tokens = model._pos_embed(patches)
        # Eva gives its rotary table along; `block` asks for it anew because insertions change it.
        tokens = self.enter(tokens[0] if isinstance(tokens, tuple) else tokens)
        readout = first(tokens.shape[0], tokens.device) if self.reads_class_token else None
        return TokenState(tokens, readout=readout, prefix=model.num_prefix_tokens, grid=grid)

    def enter(self, tokens: Tensor) -> Tensor:
        """`norm_pre`."""
        return self.model.norm_pre(tokens)

    def block(self, index: int, state: TokenState) -> TokenState:
        """Run one block."""
        extra: dict[str, Tensor] = {}
        mask = state.mask()
        if mask is not None:
            extra["attn_mask"] = mask
        if self.rotary:
            extra["rope"] = self._rope(state)
        return state.step(self.model.blocks[index](state.tokens, **extra))

    @property
    def layers(self) -> Sequence[nn.Module]:
        """See `Tower.layers`."""
        return self.model.blocks

    def opened(self, index: int) -> Opened | None:
        """See `Tower.opened`."""
        return None if self.rotary else open_timm(self.layers[index])

    def norm(self, tokens: Tensor) -> Tensor:
        """The final norm, wherever the model has it (in front of its pooling or behind)."""
        return self.model.fc_norm(self.model.norm(tokens))

    def pool(self, state: TokenState) -> Tensor:
        """The model's own pooling; inserted tokens are left out."""
        return self.model.forward_head(self.model.norm(state.original().tokens), pre_logits=True)

    def alone(self, tokens: Tensor) -> Tensor:
        """See `Tower.alone`; attention pooling answers to a picture of this patch alone."""
        pooling = getattr(self.model, "attn_pool", None)
        if pooling is None:
            return self.norm(tokens)
        if pooling.pos_embed is not None:
            raise TypeError("TimmViT.alone: this model pools by attention over positions, no patch has a feature alone")
        pooled = pooling(self.model.norm(tokens).flatten(0, 1)[:, None])
        return self.model.fc_norm(pooled).unflatten(0, tokens.shape[:2])

    def project(self, pooled: Tensor) -> Tensor:
        """The model's head and the projection."""
        return self.projection(self.model.head(pooled))

    def lora_targets(self, parts: Collection[str]) -> list[str]:
        """Names for PEFT's `target_modules`; q, k and v are mostly one fused layer and come together only."""
        block = self.model.blocks[0]
        there = {name for name, layer in block.named_modules() if isinstance(layer, nn.Linear)}
        table: Parts = {group: layers for group, layers in _LAYERS if set(layers) <= there}
        return lora_names(self, table, prefixed(self.path, "blocks", self.depth), parts)

    @property
    def reads_class_token(self) -> bool:
        """Whether the first token is what is pooled."""
        return self.model.global_pool == "token" and not hasattr(self.model, "dist_token")

    def _rope(self, state: TokenState) -> Tensor:
        """Rotations by position, `[L - prefix, 2 d]`; inserted tokens, which lie nowhere, are not rotated."""
        rope = self.model.rope
        if self.model.dynamic_img_size:
            table = rope.get_embed(shape=state.grid)
        else:
            table = rope.get_embed()
        if not state.spans:
            return table
        inside = torch.zeros(state.length, dtype=torch.bool)
        for span in state.spans.values():
            inside[span] = True
        # timm leaves the first `num_prefix_tokens` positions alone, whatever stands there, and rotates all
        # others.
        prefix = self.model.num_prefix_tokens
        patch = (~inside).cumsum(0) > prefix
        patch &= ~inside
        sin, cos = table[:1].chunk(2, dim=-1)
        still = torch.cat([torch.zeros_like(sin), torch.ones_like(cos)], dim=-1)
        full = still.repeat(state.length, 1)
        full[patch.to(table.device)] = table
        return full[prefix:]


def timm_tower(model: Any, projection: nn.Module | None = None, path: str = "") -> Tower:
    """The tower for a timm model: by its parts a vision transformer, else a CNN."""
    kind = TimmViT if hasattr(model, "blocks") and hasattr(model, "patch_embed") else TimmCNN
    return kind(model, projection, path)


def _refuse_unsupported(model: Any) -> None:
    from timm.layers.pos_embed_sincos import RotaryEmbeddingCat, RotaryEmbeddingDinoV3
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    name = type(model).__name__
    # Sub-classes change embed or blocks, so each needs its own proof.
    if type(model) not in (Eva, VisionTransformer, VisionTransformerDistilled):
        raise TypeError(
            f"TimmViT: {name} is not supported; supported are VisionTransformer (vit, deit, dinov2), "
            "VisionTransformerDistilled and Eva (eva02, dinov3). TimmCNN takes convolutional models"
        )
    if not model.global_pool:
        raise ValueError(f"TimmViT: this {name} was made with global_pool='' and gives no pooled feature")
    if isinstance(getattr(model, "head_dist", None), nn.Linear):
        raise ValueError(
            f"TimmViT: this {name} has two classifiers, and no feature lies in front of both; make it with "
            "num_classes=0"
        )
    if not isinstance(getattr(model, "patch_drop", None) or nn.Identity(), nn.Identity):
        raise ValueError(f"TimmViT: this {name} drops patches and so loses the grid; use patch_drop_rate=0")
    rope = getattr(model, "rope", None)
    if rope is not None:
        if type(rope) not in (RotaryEmbeddingCat, RotaryEmbeddingDinoV3):
            raise TypeError(
                f"TimmViT: the rotary embedding {type(rope).__name__} is not supported; supported are "
                "RotaryEmbeddingCat (eva02) and RotaryEmbeddingDinoV3 (dinov3)"
            )
        if rope.aug_active:
            raise ValueError("TimmViT: random rotary coordinates would differ between blocks; turn them off")
