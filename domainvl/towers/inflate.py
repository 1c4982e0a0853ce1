"""A 2-D vision transformer lifted to volumes: 3-D patches in front of the same blocks (as I3D inflates, 1705.07750).

With w the 2-D patch embedding and p the depth of a patch:

    mean      w_3[z] = w / p for every z        identical slices give the 2-D model's patch embeddings
    centre    w_3[p // 2] = w, else 0           the slice in the middle gives them

    position of patch (d, h, w) = the 2-D model's at (h, w), interpolated to another grid + a term for d

The term for d is zero and learned where the tower is trained (`learned`), or fixed sines and cosines with the root mean
square of the 2-D table (`sinusoidal`): a frozen tower cannot tell above from below without. Blocks, norms, pooling and
projection are the 2-D model's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domainvl.tokens import TokenState
from domainvl.towers._shared import first, no_words
from domainvl.towers.base import Tower, Words
from domainvl.towers.hf_clip import HFClipImage
from domainvl.towers.hf_siglip import HFSiglipImage
from domainvl.towers.openclip import OpenClipImage
from domainvl.towers.opened import Opened
from domainvl.towers.timm_vit import TimmViT

PatchInit = Literal["mean", "centre"]
DepthPositions = Literal["learned", "sinusoidal"]


@dataclass(frozen=True)
class Planar:
    """The parts of a 2-D tower's embedding.

    Attributes:
        conv: The patch embedding.
        grid: Patches (H, W) that it has positions for.
        special: Class token and registers with their positions, `[K, width]`.
        positions: Of the patches, `[H * W, width]`.
        after: What follows the patch embedding, a norm or nothing.
    """

    conv: nn.Conv2d
    grid: tuple[int, int]
    special: Callable[[], Tensor]
    positions: Callable[[], Tensor]
    after: Callable[[Tensor], Tensor]


class Inflated(Tower):
    """A 2-D tower over 3-D patches.

    Args:
        tower: `HFClipImage`, `HFSiglipImage`, `OpenClipImage` or `TimmViT`; its weights are used in place.
        size: Voxels (D, H, W) of a volume.
        patch_depth: Slices in a patch.
        channels: Windows of a volume: 1, with the 2-D weights summed over its channels, or as many as it has.
        init: How the patch embedding starts.
        positions: The term for depth.
    """

    depth_positions: Tensor

    def __init__(
        self,
        tower: Tower,
        size: tuple[int, int, int],
        patch_depth: int,
        channels: int = 1,
        init: PatchInit = "mean",
        positions: DepthPositions = "sinusoidal",
    ) -> None:
        super().__init__()
        planar = _planar(tower)
        kernel = cast("tuple[int, int]", tuple(planar.conv.kernel_size))
        if channels not in (1, planar.conv.in_channels):
            raise ValueError(f"Inflated: channels must be 1 or {planar.conv.in_channels} here, got {channels}")
        if init not in ("mean", "centre"):
            raise ValueError(f"Inflated: init {init!r} is not one of mean, centre")
        if positions not in ("learned", "sinusoidal"):
            raise ValueError(f"Inflated: positions {positions!r} is not one of learned, sinusoidal")
        patch = (patch_depth, *kernel)
        if patch_depth < 1 or any(voxels % side or voxels < side for voxels, side in zip(size, patch, strict=True)):
            raise ValueError(f"Inflated: size {tuple(size)} must be whole patches of {patch} (D, H, W)")
        self.tower = tower
        self.size = tuple(size)
        self.grid = tuple(voxels // side for voxels, side in zip(size, patch, strict=True))
        self.width, self.depth, self.out_dim = tower.width, tower.depth, tower.out_dim
        self.patch = _inflated(planar.conv, patch_depth, channels, init)
        if positions == "learned":
            self.depth_positions = nn.Parameter(torch.zeros(self.grid[0], self.width))
        else:
            rms = planar.positions().detach().square().mean().sqrt()
            # Sines and cosines have a mean square of a half.
            self.register_buffer("depth_positions", sinusoidal(self.grid[0], self.width) * rms * math.sqrt(2))

    def embed(self, inputs: Tensor, words: Words | None = None) -> TokenState:
        """Volumes `[B, C, D, H, W]` to special tokens and patches."""
        no_words(self, words)
        if inputs.dim() != 5 or tuple(inputs.shape[1:]) != (self.patch.in_channels, *self.size):
            raise ValueError(
                f"Inflated: this tower takes volumes [B, {self.patch.in_channels}, {', '.join(map(str, self.size))}], "
                f"got {tuple(inputs.shape)}; the preset's windows and size have to be the tower's channels and size"
            )
        planar = _planar(self.tower)
        patches = planar.after(self.patch(inputs).flatten(2).transpose(1, 2)) + self._positions(planar)
        special = planar.special().expand(len(inputs), -1, -1)
        tokens = self.tower.enter(torch.cat([special.to(patches.dtype), patches], dim=1))
        readout = first(tokens.shape[0], tokens.device) if self._reads_first() else None
        return TokenState(tokens, readout=readout, prefix=special.shape[1], grid=self.grid)

    def _positions(self, planar: Planar) -> Tensor:
        """`[D * H * W, width]`."""
        flat = planar.positions()
        if planar.grid != self.grid[1:]:
            table = flat.T.unflatten(1, planar.grid)[None].float()
            table = F.interpolate(table, size=self.grid[1:], mode="bicubic", antialias=True)
            flat = table[0].flatten(1).T.to(flat.dtype)
        return (self.depth_positions[:, None] + flat[None]).flatten(0, 1)

    def _reads_first(self) -> bool:
        """Whether the 2-D tower pools its first token."""
        tower = self.tower
        if isinstance(tower, OpenClipImage):
            return tower.visual.attn_pool is None and tower.visual.pool_type == "tok"
        return isinstance(tower, HFClipImage) or (isinstance(tower, TimmViT) and tower.reads_class_token)

    def enter(self, tokens: Tensor) -> Tensor:
        """See `Tower.enter`."""
        return self.tower.enter(tokens)

    def block(self, index: int, state: TokenState) -> TokenState:
        """Run one block of the 2-D tower."""
        return self.tower.block(index, state)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """See `Tower.layers`."""
        return self.tower.layers

    def opened(self, index: int) -> Opened | None:
        """See `Tower.opened`."""
        return self.tower.opened(index)

    def norm(self, tokens: Tensor) -> Tensor:
        """See `Tower.norm`."""
        return self.tower.norm(tokens)

    def pool(self, state: TokenState) -> Tensor:
        """The 2-D tower's own pooling."""
        return self.tower.pool(state)

    def alone(self, tokens: Tensor) -> Tensor:
        """See `Tower.alone`: as in the 2-D tower."""
        return self.tower.alone(tokens)

    @property
    def pooled_width(self) -> int:
        """See `Tower.pooled_width`."""
        return self.tower.pooled_width

    def project(self, pooled: Tensor) -> Tensor:
        """The 2-D tower's own projection."""
        return self.tower.project(pooled)

    def lora_targets(self, parts: Collection[str]) -> list[str]:
        """See `Tower.lora_targets`: names inside the 2-D library's model."""
        return self.tower.lora_targets(parts)


def sinusoidal(length: int, width: int) -> Tensor:
    """Fixed positions, sines then cosines, `[length, width]`."""
    half = (width + 1) // 2
    rates = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width].float()


def _inflated(conv: nn.Conv2d, depth: int, channels: int, init: PatchInit) -> nn.Conv3d:
    flat = conv.weight.detach()
    if channels < conv.in_channels:
        flat = flat.sum(dim=1, keepdim=True)
    stride = (depth, conv.stride[0], conv.stride[1])
    kernel = (depth, conv.kernel_size[0], conv.kernel_size[1])
    made = nn.Conv3d(channels, conv.out_channels, kernel, stride, bias=conv.bias is not None)
    weight = torch.zeros_like(made.weight)
    if init == "mean":
        weight += flat[:, :, None] / depth
    else:
        weight[:, :, depth // 2] = flat
    with torch.no_grad():
        made.weight.copy_(weight)
        if conv.bias is not None and made.bias is not None:
            made.bias.copy_(conv.bias)
    return made.to(flat.dtype).requires_grad_(conv.weight.requires_grad)


def _planar(tower: Tower) -> Planar:
    if isinstance(tower, (HFClipImage, HFSiglipImage)):
        own = tower.vision.embeddings
        count = 1 if isinstance(tower, HFClipImage) else 0

        def special() -> Tensor:
            table = own.position_embedding.weight
            return own.class_embedding[None] + table[:1] if count else table[:0]

        return Planar(
            own.patch_embedding, tower.grid, special, lambda: own.position_embedding.weight[count:], nn.Identity()
        )
    if isinstance(tower, OpenClipImage):
        visual = tower.visual
        return Planar(
            visual.conv1,
            tuple(visual.grid_size),
            lambda: visual.class_embedding[None] + visual.positional_embedding[:1],
            lambda: visual.positional_embedding[1:],
            nn.Identity(),
        )
    if isinstance(tower, TimmViT) and not tower.rotary and tower.model.pos_embed is not None:
        return _timm(tower)
    raise TypeError(
        f"Inflated: {type(tower).__name__} cannot be inflated; supported are HFClipImage, HFSiglipImage, OpenClipImage "
        "and TimmViT with learned positions (no rotary ones)"
    )


def _timm(tower: TimmViT) -> Planar:
    model = tower.model
    shared = 0 if model.no_embed_class else model.num_prefix_tokens

    def special() -> Tensor:
        names = ("cls_token", "dist_token", "reg_token")
        found = [token[0] for token in (getattr(model, name, None) for name in names) if token is not None]
        tokens = torch.cat(found) if found else model.pos_embed[0, :0]
        return tokens + model.pos_embed[0, :shared] if shared else tokens

    patch = model.patch_embed
    return Planar(patch.proj, tuple(patch.grid_size), special, lambda: model.pos_embed[0, shared:], patch.norm)
