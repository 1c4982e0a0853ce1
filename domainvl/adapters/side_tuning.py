"""Side-tuning: a small network beside the frozen one (Zhang et al., ECCV 2020, 1912.13503; ladder form 2206.06522).

It climbs with the blocks. With x_i the patches that enter block i, laid out as [D, H, W], s_0 = 0:

    s_i+1 = s_i + dwconv_i(gelu(W_i norm(x_i) + s_i))       W_i [width, d], dwconv 3 x 3 x 3
    f     = pool(frozen model) + W_out mean(s)              W_out = 0 at start: the frozen feature, bit for bit

The model itself stays as it is and no gradient runs through its blocks, so a step costs little more than a forward.

Differs from the papers: features are added and not mixed with a learned share, which keeps the start exact; the ladder
is of 3-D convolutions, so that slices see each other. It works wherever patches have a grid: slices, 3-D patches, and
pictures, which are one slice.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domainvl.adapters._slices import as_volume
from domainvl.adapters._towers import require_token_editing
from domainvl.adapters.base import Adapter, Side
from domainvl.backbones.base import Backbone
from domainvl.features import Features
from domainvl.tokens import TokenState
from domainvl.towers.base import Tower

_NOTE = "side_tuning"


class SideTuning(Adapter):
    """A ladder of 3-D convolutions beside the image tower.

    Args:
        width: Channels of the side network.
    """

    read_sides: ClassVar[tuple[Side, ...]] = ("image",)

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"SideTuning: width must be positive, got {width}")
        self.width = width

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {"width": self.width}

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`."""
        tower = backbone.image
        require_token_editing("SideTuning", tower)
        self.rungs = nn.ModuleList(_Rung(tower.width, self.width) for _ in range(tower.depth))
        self.leave = nn.Linear(self.width, tower.pooled_width)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.to(backbone.logit_scale.device)

    def first_block(self, side: Side, tower: Tower) -> int:
        """See `Adapter.first_block`: it looks at what enters every block."""
        return 0 if side == "image" else tower.depth

    def same_rows(self) -> bool:
        """See `Adapter.same_rows`: no text is touched."""
        return True

    def edit(self, side: Side, index: int, state: TokenState) -> TokenState:
        """See `Adapter.edit`; tokens stay as they are, the side network is written down."""
        if side == "text":
            return state
        patches = state.tokens[:, state.patches()].detach().float()
        below = as_volume(F.layer_norm(patches, patches.shape[-1:]), state)
        return state.note(self.rungs[index](below, state.notes.get(_NOTE)), _NOTE)

    def reads(self, side: Side) -> Collection[str]:
        """See `Adapter.reads`."""
        return ()

    def readout(self, side: Side, tower: Tower, state: TokenState) -> Features:
        """See `Adapter.readout`."""
        if side == "text":
            return super().readout(side, tower, state)
        pooled = tower.pool(state)
        beside = self.leave(state.notes[_NOTE].mean(dim=(2, 3, 4)))
        return {"image.pooled": tower.project(pooled + beside.to(pooled.dtype))}


class _Rung(nn.Module):
    def __init__(self, outer: int, inner: int) -> None:
        super().__init__()
        self.down = nn.Linear(outer, inner)
        self.conv = nn.Conv3d(inner, inner, 3, padding=1, groups=inner)

    def forward(self, below: Tensor, side: Tensor | None) -> Tensor:
        """Tokens `[B, d, D, H, W]` and the side network so far, `[B, width, D, H, W]`."""
        entered = self.down(below.movedim(1, -1)).movedim(-1, 1)
        side = torch.zeros_like(entered) if side is None else side
        return side + self.conv(F.gelu(entered + side))
