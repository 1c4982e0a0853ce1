"""HLIP's image encoder (Zhao et al., arXiv 2505.21862): a ViT that attends within slices and, now and then, to all.

Patches are 8 x 24 x 24 voxels; a slice is one layer of them, each with a class token of its own. Where a block that
attends within slices is followed by one that sees the whole scan, the class tokens of the slices are averaged into one;
the other way round it is copied. What an adapter inserted is averaged and copied alike.

    blocks 2, 5, 8, 11 of 12 (from 0) see the whole scan, all others their slice

Single scans (chest CT). The authors' models for several scans of a study (brain MRI, head CT) have a table for the
order of scans on top and are refused. The blocks are timm's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domainvl.tokens import TokenState
from domainvl.towers._shared import Parts, fill, first, lora_names, no_words, pick, prefixed
from domainvl.towers.base import Tower, Words

_LAYERS: Parts = {
    ("q", "k", "v"): ("attn.qkv",),
    ("o",): ("attn.proj",),
    ("up",): ("mlp.fc1",),
    ("down",): ("mlp.fc2",),
}


class HlipModel(nn.Module):
    """The weights, under the names that they were published with.

    Args:
        width: Size of a token.
        depth: Number of blocks.
        heads: Attention heads.
        patch: Voxels of a patch along D, H and W.
        grid: Patches that there are positions for.
    """

    def __init__(
        self, width: int, depth: int, heads: int, patch: tuple[int, int, int], grid: tuple[int, int, int]
    ) -> None:
        super().__init__()
        from timm.layers import LayerNorm
        from timm.models.vision_transformer import Block

        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv3d(1, width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.spatial_posemb = nn.Parameter(torch.zeros(1, *grid, width))
        # timm's own, for its epsilon.
        self.blocks = nn.ModuleList(Block(width, heads, qkv_bias=True, norm_layer=LayerNorm) for _ in range(depth))
        self.norm = LayerNorm(width)

    @classmethod
    def from_published(cls, tensors: Mapping[str, Tensor], heads: int = 12) -> HlipModel:
        """The model for `visual.trunk.*` of a published checkpoint, that prefix taken off."""
        if "sequential_posemb" in tensors:
            raise ValueError(
                "Hlip: these weights are for several scans of a study (sequential_posemb); supported are those for "
                "single scans, vit_base_singlescan_h2_token2744"
            )
        missing = {"patch_embed.proj.weight", "spatial_posemb"} - tensors.keys()
        if missing:
            raise ValueError(f"Hlip: the checkpoint lacks {sorted(missing)}; it is no HLIP")
        weight, positions = tensors["patch_embed.proj.weight"], tensors["spatial_posemb"]
        if weight.dim() != 5 or weight.shape[0] % heads:
            raise ValueError(f"Hlip: heads={heads} does not divide a patch embedding of {tuple(weight.shape)}")
        depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
        patch, grid = (cast("tuple[int, int, int]", tuple(shape)) for shape in (weight.shape[2:], positions.shape[1:4]))
        model = cls(weight.shape[0], depth, heads, patch, grid)
        fill("Hlip", model, tensors)
        return model.eval()


class Hlip(Tower):
    """HLIP's image encoder as a tower. Between blocks the rows of a state are slices or scans.

    Args:
        model: The encoder.
        projection: Into the shared space.
        whole: Blocks that see the whole scan; None is every third one.
        path: Name of `model` inside the library's model, for `lora_targets`.
    """

    def __init__(
        self, model: HlipModel, projection: nn.Module, whole: Collection[int] | None = None, path: str = ""
    ) -> None:
        super().__init__()
        self.model, self.projection, self.path = model, projection, path
        self.width, self.depth = model.cls_token.shape[-1], len(model.blocks)
        self.whole = frozenset(range(2, self.depth, 3) if whole is None else whole)
        if self.depth - 1 not in self.whole or not self.whole <= set(range(self.depth)):
            raise ValueError(
                f"Hlip: whole must be some of 0..{self.depth - 1} and hold the last, got {sorted(self.whole)}"
            )
        with torch.no_grad():
            self.out_dim = projection(model.cls_token[0]).shape[-1]

    def embed(self, inputs: Tensor, words: Words | None = None) -> TokenState:
        """Volumes `[B, 1, D, H, W]` to patches behind a class token: a row per slice, or per scan."""
        no_words(self, words)
        proj = cast(nn.Conv3d, self.model.patch_embed.proj)
        patch = proj.kernel_size
        if (
            inputs.dim() != 5
            or inputs.shape[1] != 1
            or any(n < p for n, p in zip(inputs.shape[2:], patch, strict=True))
        ):
            raise ValueError(
                f"Hlip: expected volumes [B, 1, D, H, W] of at least one patch {patch}, got {tuple(inputs.shape)}"
            )
        patches = proj(inputs)
        grid = cast("tuple[int, int, int]", tuple(patches.shape[2:]))
        tokens = (patches.movedim(1, -1) + self._positions(grid)).flatten(1, 3)
        tokens = torch.cat([self.model.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        state = TokenState(tokens, readout=first(tokens.shape[0], tokens.device), prefix=1, grid=grid)
        return self._grouped(0, state)

    def _positions(self, grid: tuple[int, int, int]) -> Tensor:
        table = self.model.spatial_posemb
        if tuple(table.shape[1:4]) == grid:
            return table
        return F.interpolate(table.movedim(-1, 1), size=grid, mode="trilinear").movedim(1, -1)

    def block(self, index: int, state: TokenState) -> TokenState:
        """Run one block, for slices or for scans."""
        state = self._grouped(index, state)
        return state.step(self.model.blocks[index](state.tokens))

    def _checkpointed(self, index: int, state: TokenState) -> TokenState:
        # What is computed again may not change the number of tokens.
        return super()._checkpointed(index, self._grouped(index, state))

    def _grouped(self, index: int, state: TokenState) -> TokenState:
        """The rows that block `index` takes."""
        if state.grid is None:
            raise RuntimeError("Hlip: the state has no grid; it must come from Hlip.embed")
        slices, whole = len(state.grid) == 2, index in self.whole
        if slices and whole:
            return self._joined(state)
        return state if slices or whole else self._split(state)

    def _joined(self, state: TokenState) -> TokenState:
        grid = cast("tuple[int, ...]", state.grid)
        place, count = state.patches(), state.parts
        rows = state.tokens.unflatten(0, (-1, count))
        front, back = rows[:, :, : place.start].mean(dim=1), rows[:, :, place.stop :].mean(dim=1)
        tokens = torch.cat([front, rows[:, :, place].flatten(1, 2), back], dim=1)
        longer = (count - 1) * (place.stop - place.start)
        readout = None if state.readout is None else state.readout[::count]
        spans = _shifted(state.spans, place.start, longer)
        return replace(state, tokens=tokens, grid=(count, *grid), readout=readout, spans=spans, parts=1, _mask=None)

    def _split(self, state: TokenState) -> TokenState:
        count, *grid = cast("tuple[int, ...]", state.grid)
        place = state.patches()
        front, back = state.tokens[:, : place.start], state.tokens[:, place.stop :]
        slices = state.tokens[:, place].unflatten(1, (count, -1))
        ends = [part[:, None].expand(-1, count, -1, -1) for part in (front, back)]
        tokens = torch.cat([ends[0], slices, ends[1]], dim=2).flatten(0, 1)
        readout = None if state.readout is None else state.readout.repeat_interleave(count)
        spans = _shifted(state.spans, place.start, slices.shape[2] - (place.stop - place.start))
        return replace(state, tokens=tokens, grid=tuple(grid), readout=readout, spans=spans, parts=count, _mask=None)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """See `Tower.layers`."""
        return cast("Sequence[nn.Module]", self.model.blocks)

    def norm(self, tokens: Tensor) -> Tensor:
        """`norm`."""
        return self.model.norm(tokens)

    def pool(self, state: TokenState) -> Tensor:
        """The normalised class token."""
        return self.norm(pick(state))

    def project(self, pooled: Tensor) -> Tensor:
        """The projection."""
        return self.projection(pooled)

    def lora_targets(self, parts: Collection[str]) -> list[str]:
        """Names for PEFT's `target_modules`; q, k and v are one fused layer."""
        return lora_names(self, _LAYERS, prefixed(self.path, "blocks", self.depth), parts)


def _shifted(spans: Mapping[str, slice], patches: int, by: int) -> dict[str, slice]:
    """Spans behind the patches, which begin at `patches`, moved."""
    moved: dict[str, Any] = {}
    for name, span in spans.items():
        moved[name] = slice(span.start + by, span.stop + by) if span.start >= patches else span
    return moved
