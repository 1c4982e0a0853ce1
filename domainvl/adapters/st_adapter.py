"""ST-Adapter: depthwise 3-D convolutions between the blocks of a 2-D model (Pan et al., NeurIPS 2022, 2206.13559).

In front of a block, for the patch tokens x of all slices, laid out as [D, H, W]:

    x' = x + W_up dwconv(W_down x)          W_down [width, d], dwconv `kernel` (3, 1, 1), W_up [d, width]

Special and inserted tokens pass by. The convolution starts at zero, so the start is the model itself bit for bit.

Parity is proven against the class `Adapter` of the authors' `models_adapter.py`. Differs from their model: one adapter
per block, in front of attention (theirs may have a second one in front of the MLP). It works wherever patches have a
grid: slices, 3-D patches, and pictures, which are one slice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from domainvl.adapters._slices import as_patches, as_volume
from domainvl.adapters._towers import require_token_editing
from domainvl.adapters.base import Adapter, Side
from domainvl.backbones.base import Backbone
from domainvl.tokens import TokenState
from domainvl.towers.base import Tower


class STAdapter(Adapter):
    """Slices that see their neighbours in front of every block.

    Args:
        width: Channels of the convolution.
        kernel: Its size along (D, H, W), odd numbers.
        first_block: First block with an adapter, from 0.
    """

    def __init__(self, width: int = 64, kernel: tuple[int, int, int] = (3, 1, 1), first_block: int = 0) -> None:
        super().__init__()
        if width < 1 or len(kernel) != 3 or any(side < 1 or side % 2 == 0 for side in kernel):
            raise ValueError(
                f"STAdapter: width must be positive and kernel three odd numbers, got {width} and {tuple(kernel)}"
            )
        self.width, self.kernel, self._first = width, (kernel[0], kernel[1], kernel[2]), first_block

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {"width": self.width, "kernel": list(self.kernel), "first_block": self._first}

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`."""
        tower = backbone.image
        require_token_editing("STAdapter", tower)
        count = tower.depth - self.first_block("image", tower)
        self.blocks = nn.ModuleList(_Bottleneck(tower.width, self.width, self.kernel) for _ in range(count))
        self.to(backbone.logit_scale.device)

    def first_block(self, side: Side, tower: Tower) -> int:
        """See `Adapter.first_block`."""
        if side == "text":
            return tower.depth
        if not 0 <= self._first < tower.depth:
            raise ValueError(
                f"STAdapter: first_block must lie in 0..{tower.depth - 1} for {type(tower).__name__}, got {self._first}"
            )
        return self._first

    def same_rows(self) -> bool:
        """See `Adapter.same_rows`: no text is touched."""
        return True

    def edit(self, side: Side, index: int, state: TokenState) -> TokenState:
        """See `Adapter.edit`."""
        if side == "text" or index < self._first:
            return state
        place = state.patches()
        patches = state.tokens[:, place]
        changed = patches + self.blocks[index - self._first](patches.float(), state).to(patches.dtype)
        return state.step(torch.cat([state.tokens[:, : place.start], changed, state.tokens[:, place.stop :]], dim=1))


class _Bottleneck(nn.Module):
    def __init__(self, outer: int, inner: int, kernel: tuple[int, int, int]) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(outer, inner), nn.Linear(inner, outer)
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = nn.Conv3d(inner, inner, kernel, padding=padding, groups=inner)
        for parameter in (self.down.bias, self.up.bias, self.conv.weight, self.conv.bias):
            if parameter is not None:
                nn.init.zeros_(parameter)

    def forward(self, patches: Tensor, state: TokenState) -> Tensor:
        return self.up(as_patches(self.conv(as_volume(self.down(patches), state)), state))
