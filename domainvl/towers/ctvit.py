"""CT-ViT, the image encoder of CT-CLIP (Hamamci et al., arXiv 2403.17834): attention within slices, then along depth.

    tokens   norm(W norm(patch) + b) for patches of 10 x 20 x 20 voxels
    spatial  in every layer of patches: x + dwconv(x), x + attention(x) with a learned bias by offset, x + GEGLU(x)
    depth    the same along depth, at every place, without a bias
    output   each token becomes the nearest of 8192 codes; mean over depth, flattened, one linear map

Kept as the authors' code does it, since their weights were trained so: keys and values are of tokens that are not
normed; the convolution along depth lays tokens of shape (b h w, t) out as if they were (b, t, h, w), and looks back.
Our own: the bias is computed once per offset and not once per pair; the gradient goes past the codes to the token, in
evaluation too (straight through), so that LoRA learns. Nothing can be put between tokens that lie on a grid.

Which way H and W run is the preset's business (`domainvl.data.volumes.preset.CT_CLIP`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domainvl.tokens import TokenState
from domainvl.towers._shared import Parts, fill, lora_names, no_words, prefixed
from domainvl.towers.base import Tower, Words

_LAYERS: Parts = {
    ("q",): ("query",),
    ("k", "v"): ("key_value",),
    ("o",): ("leave",),
    ("up",): ("up",),
    ("down",): ("down",),
}
_SCALE = 8.0
_BIAS = "ctvit_bias"

_RENAMED = (
    ("to_patch_emb.1.", "patch.0."),
    ("to_patch_emb.2.", "patch.1."),
    ("to_patch_emb.3.", "patch.2."),
    ("spatial_rel_pos_bias.net.0.0.", "offsets.0."),
    ("spatial_rel_pos_bias.net.1.0.", "offsets.2."),
    ("spatial_rel_pos_bias.net.2.", "offsets.4."),
    ("enc_spatial_transformer.norm_out.", "spatial_norm."),
    ("enc_temporal_transformer.norm_out.", "depth_norm."),
    ("vq._codebook.embed", "codes"),
)
_IN_BLOCK = (
    ("0.dsconv.", "near."),
    ("1.norm.", "norm."),
    ("1.to_q.", "query."),
    ("1.to_kv.", "key_value."),
    ("1.to_out.", "leave."),
    ("1.q_scale", "query_scale"),
    ("1.k_scale", "key_scale"),
    ("3.0.", "mlp_norm."),
    ("3.1.", "up."),
    ("3.4.", "down."),
)
# Parts of the autoencoder that made the codes, and what the authors' code makes and never uses.
_UNUSED = ("to_patch_emb_first_frame.", "to_pixels", "vq._codebook.initted", "vq._codebook.cluster_size")
_UNUSED_IN_BLOCK = ("1.null_kv", "1.context_norm.")


class CTViTModel(nn.Module):
    """The weights; all sizes but the patch are those of the tensors that it is made for.

    Args:
        width: Size of a token.
        patch: Voxels of a patch along D, H and W.
        spatial: Number of blocks within slices.
        depth: Number of blocks along depth.
        heads: Attention heads.
        head: Size of a head.
        codes: Number of codes.
    """

    codes: Tensor

    def __init__(
        self, width: int, patch: tuple[int, int, int], spatial: int, depth: int, heads: int, head: int, codes: int
    ) -> None:
        super().__init__()
        voxels = math.prod(patch)
        self.size, self.spatial, self.heads = patch, spatial, heads
        self.patch = nn.Sequential(nn.LayerNorm(voxels), nn.Linear(voxels, width), nn.LayerNorm(width))
        self.offsets = nn.Sequential(
            nn.Linear(2, width), nn.LeakyReLU(0.1), nn.Linear(width, width), nn.LeakyReLU(0.1), nn.Linear(width, heads)
        )
        self.blocks = nn.ModuleList(_Block(width, heads, head) for _ in range(spatial + depth))
        self.spatial_norm, self.depth_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.register_buffer("codes", torch.zeros(codes, width))

    @classmethod
    def from_published(cls, tensors: Mapping[str, Tensor], patch: tuple[int, int, int]) -> CTViTModel:
        """The model for `visual_transformer.*` of a published checkpoint, that prefix taken off."""
        own = _translated(tensors)
        blocks = [name.split(".")[1] for name in own if name.endswith("query.weight")]
        spatial = len({name.split(".")[2] for name in tensors if name.startswith("enc_spatial_transformer.layers.")})
        voxels = own["patch.1.weight"].shape[1]
        if voxels != math.prod(patch):
            raise ValueError(f"CTViT: the weights are for patches of {voxels} voxels, {tuple(patch)} is not that many")
        head = own["blocks.0.query_scale"].shape[0]
        width, heads = own["patch.1.weight"].shape[0], own["blocks.0.query.weight"].shape[0] // head
        model = cls(width, patch, spatial, len(blocks) - spatial, heads, head, own["codes"].shape[0])
        fill("CTViT", model, own)
        return model.eval()

    def bias(self, height: int, width: int) -> Tensor:
        """What attention adds for every pair of patches of a slice, `[1, heads, H * W, H * W]`."""
        device = self.codes.device
        rows, columns = (torch.arange(1 - side, side, device=device) for side in (height, width))
        offset = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).to(self.codes.dtype)
        table = self.offsets(offset.sign() * (offset.abs() + 1).log())
        y = torch.arange(height, device=device).repeat_interleave(width)
        x = torch.arange(width, device=device).repeat(height)
        found = table[y[:, None] - y[None] + height - 1, x[:, None] - x[None] + width - 1]
        return found.permute(2, 0, 1)[None]

    def quantise(self, tokens: Tensor) -> Tensor:
        """The code with the largest cosine; the gradient is the token's."""
        near = F.normalize(tokens.float(), dim=-1) @ F.normalize(self.codes.float(), dim=-1).T
        return self.codes[near.argmax(dim=-1)] + (tokens - tokens.detach())


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, head: int) -> None:
        super().__init__()
        inner, hidden = heads * head, int(4 * (2 / 3) * width)
        self.heads = heads
        self.near = nn.Conv3d(width, width, 3, groups=width)
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, inner, bias=False)
        self.key_value = nn.Linear(width, 2 * inner, bias=False)
        self.query_scale, self.key_scale = nn.Parameter(torch.ones(head)), nn.Parameter(torch.ones(head))
        self.leave = nn.Linear(inner, width, bias=False)
        self.up, self.down = nn.Linear(width, 2 * hidden, bias=False), nn.Linear(hidden, width, bias=False)

    def forward(self, tokens: Tensor, layout: tuple[int, ...], bias: Tensor | None) -> Tensor:
        """Tokens `[rows, L, width]` that are laid out as `layout` (B, T, H, W) for the convolution."""
        volume = tokens.reshape(*layout, -1).movedim(-1, 1)
        # Two layers in front and none behind: it looks back along depth.
        near = self.near(F.pad(volume, (1, 1, 1, 1, 2, 0)))
        tokens = near.movedim(1, -1).reshape(tokens.shape) + tokens
        query = F.normalize(self._heads(self.query(self.norm(tokens))), dim=-1) * self.query_scale
        key, value = self.key_value(tokens).chunk(2, dim=-1)
        key = F.normalize(self._heads(key), dim=-1) * self.key_scale
        mixed = F.scaled_dot_product_attention(query, key, self._heads(value), attn_mask=bias, scale=_SCALE)
        tokens = self.leave(mixed.transpose(1, 2).flatten(2)) + tokens
        content, gate = self.up(self.mlp_norm(tokens)).chunk(2, dim=-1)
        return self.down(F.gelu(gate) * content) + tokens

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class CTViT(Tower):
    """CT-ViT as a tower. A pooled feature holds H * W * width values, so `norm` of a token is not one.

    Args:
        model: The encoder.
        projection: Into the shared space.
        path: Name of `model` inside the library's model.
    """

    token_editing = False

    has_locals = False

    def __init__(self, model: CTViTModel, projection: nn.Linear, path: str = "") -> None:
        super().__init__()
        self.model, self.projection, self.path = model, projection, path
        self.width, self.depth = model.codes.shape[1], len(model.blocks)
        self.out_dim = projection.out_features

    def embed(self, inputs: Tensor, words: Words | None = None) -> TokenState:
        """Volumes `[B, 1, D, H, W]` to patches."""
        no_words(self, words)
        depth, height, width = self.model.size
        whole = inputs.dim() == 5 and inputs.shape[1] == 1
        if not whole or any(n % side for n, side in zip(inputs.shape[2:], self.model.size, strict=True)):
            raise ValueError(
                f"CTViT: expected volumes [B, 1, D, H, W] of whole patches {self.model.size}, got {tuple(inputs.shape)}"
            )
        patches = inputs[:, 0]
        patches = patches.unflatten(1, (-1, depth)).unflatten(3, (-1, height)).unflatten(5, (-1, width))
        # B, t, depth, h, height, w, width
        patches = patches.permute(0, 1, 3, 5, 2, 4, 6)
        grid = (patches.shape[1], patches.shape[2], patches.shape[3])
        if grid[1] * grid[2] * self.width != self.pooled_width:
            raise ValueError(
                f"CTViT: the projection reads {self.pooled_width // self.width} patches of a slice, a volume of "
                f"{tuple(inputs.shape[2:])} has {grid[1]} x {grid[2]}; use the checkpoint's own preset"
            )
        tokens = self.model.patch(patches.flatten(4)).flatten(1, 3)
        return TokenState(tokens, grid=grid).note(self.model.bias(grid[1], grid[2]), _BIAS)

    def block(self, index: int, state: TokenState) -> TokenState:
        """Attention within the slices in the first half, along depth in the second."""
        block = cast(_Block, self.model.blocks[index])
        layers, height, width = cast("tuple[int, int, int]", state.grid)
        layout = (len(state.tokens), layers, height, width)
        tokens = state.tokens.unflatten(1, (layers, height * width))
        if index < self.model.spatial:
            bias = state.notes[_BIAS].to(tokens.dtype)
            tokens = block(tokens.flatten(0, 1), layout, bias).view_as(tokens)
            # What separates the two transformers belongs to the last block of the first.
            tokens = self.model.spatial_norm(tokens) if index == self.model.spatial - 1 else tokens
        else:
            along = tokens.transpose(1, 2)
            tokens = block(along.flatten(0, 1), layout, None).view_as(along).transpose(1, 2)
        return state.step(tokens.flatten(1, 2))

    @property
    def layers(self) -> Sequence[nn.Module]:
        """See `Tower.layers`."""
        return cast("Sequence[nn.Module]", self.model.blocks)

    @property
    def pooled_width(self) -> int:
        """See `Tower.pooled_width`."""
        return self.projection.in_features

    def norm(self, tokens: Tensor) -> Tensor:
        """The last layer norm, then the nearest code."""
        return self.model.quantise(self.model.depth_norm(tokens))

    def pool(self, state: TokenState) -> Tensor:
        """The mean over depth, all patches of a slice one after the other, `[B, H * W * width]`."""
        if state.grid is None:
            raise RuntimeError("CTViT.pool: the state has no grid; it must come from CTViT.embed")
        return self.norm(state.tokens).unflatten(1, (state.grid[0], -1)).mean(dim=1).flatten(1)

    def project(self, pooled: Tensor) -> Tensor:
        """The one linear map."""
        return self.projection(pooled)

    def lora_targets(self, parts: Collection[str]) -> list[str]:
        """Names for PEFT's `target_modules`; k and v are one fused layer, up holds the gate too."""
        return lora_names(self, _LAYERS, prefixed(self.path, "blocks", self.depth), parts)


def _translated(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names to ours."""
    spatial = {name.split(".")[2] for name in tensors if name.startswith("enc_spatial_transformer.layers.")}
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(_UNUSED):
            continue
        if ".layers." in name:
            stack, _, index, inner = name.split(".", 3)
            if inner.startswith(_UNUSED_IN_BLOCK):
                continue
            place = int(index) + (len(spatial) if stack == "enc_temporal_transformer" else 0)
            new = next(
                (f"blocks.{place}.{our}{inner[len(old) :]}" for old, our in _IN_BLOCK if inner.startswith(old)), None
            )
        else:
            new = next((our + name[len(old) :] for old, our in _RENAMED if name.startswith(old)), None)
        if new is None:
            raise ValueError(f"CTViT: the checkpoint holds {name!r}, which CT-CLIP's image encoder does not have")
        found[new.replace(".gamma", ".weight").replace(".beta", ".bias")] = tensor
    if "codes" not in found or "patch.1.weight" not in found:
        raise ValueError("CTViT: the checkpoint lacks to_patch_emb.2.weight or vq._codebook.embed; it is no CT-CLIP")
    found["codes"] = found["codes"].reshape(-1, found["codes"].shape[-1])
    return found
