"""A small transformer over the slices of a volume, on top of the frozen tower (as CLIP4Clip's seqTransf, 2104.08860).

With f_d the pooled feature of slice d, in front of the projection:

    z   = transformer(W_in norm(f) + positions)         pre-norm layers, fixed sines and cosines
    f   = mean_d (f_d + W_out z_d)                      W_out = 0 at start: the mean over slices, bit for bit

Differs from their code: a narrower transformer between two linear layers, so that its size is a choice; fixed
positions, so that the number of slices is free; W_out starts at zero where theirs starts from CLIP's text blocks.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from torch import Tensor, nn

from domainvl.adapters._slices import slices_of
from domainvl.adapters.base import Adapter, Side
from domainvl.backbones.base import Backbone
from domainvl.features import Features
from domainvl.tokens import TokenState
from domainvl.towers.base import Tower
from domainvl.towers.inflate import sinusoidal


class SliceTransformer(Adapter):
    """Slices that see each other before they are averaged.

    Args:
        width: Size of a token of the transformer.
        layers: Number of its layers.
        heads: Number of its attention heads.
    """

    read_sides: ClassVar[tuple[Side, ...]] = ("image",)

    def __init__(self, width: int = 128, layers: int = 1, heads: int = 4) -> None:
        super().__init__()
        if width < 1 or layers < 1 or heads < 1 or width % heads:
            raise ValueError(
                f"SliceTransformer: width, layers and heads must be positive and heads divide width, got {width}, "
                f"{layers} and {heads}"
            )
        self.width, self.layers, self.heads = width, layers, heads

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {"width": self.width, "layers": self.layers, "heads": self.heads}

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`."""
        size = slices_of("SliceTransformer", backbone.image).pooled_width
        self.norm, self.enter = nn.LayerNorm(size), nn.Linear(size, self.width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                self.width,
                self.heads,
                4 * self.width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(self.layers)
        )
        self.leave = nn.Linear(self.width, size)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.to(backbone.logit_scale.device)

    def reads(self, side: Side) -> Collection[str]:
        """See `Adapter.reads`."""
        return ()

    def mixed(self, slices: Tensor) -> Tensor:
        """What is added to the slices `[B, D, d]`."""
        tokens = self.enter(self.norm(slices.float()))
        tokens = tokens + sinusoidal(tokens.shape[1], self.width).to(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        return self.leave(tokens).to(slices.dtype)

    def readout(self, side: Side, tower: Tower, state: TokenState) -> Features:
        """See `Adapter.readout`."""
        if side == "text":
            return super().readout(side, tower, state)
        slices = slices_of("SliceTransformer", tower).per_slice(state)
        return {"image.pooled": tower.project((slices + self.mixed(slices)).mean(dim=1))}
