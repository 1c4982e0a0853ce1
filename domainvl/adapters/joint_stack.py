"""The stack from a language model to the joint space (Huang et al., LLM2CLIP, arXiv 2411.04997).

With e the pooled text feature in front of the backbone's own projection, of unit length:

    x_0 = e,  x_i = x_{i-1} + W_2 dropout(GELU(W_1 LN(x_{i-1})))        W_1 [k d, d], W_2 [d, k d]
    feature = W LN(x_n) + b                                             W [size of the joint space, d]

takes the place of the projection, which is random where a language model has just met an image encoder. The tower stays
as it is, so that its features can be computed once; `Compose` with `LoRA` trains both. The authors' loss is CLIP's.

Differs from the authors' code: words go through the same stack, so that local losses compare in the same space.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from domainvl.adapters.base import Adapter, Side
from domainvl.backbones.base import Backbone
from domainvl.features import Features
from domainvl.tokens import TokenState
from domainvl.towers.base import Tower
from domainvl.towers.locals import own_tokens


class JointStack(Adapter):
    """Residual blocks and a linear layer behind the text tower.

    Args:
        blocks: Number n of residual blocks.
        expansion: How many times wider (k) the hidden layer of a block is.
        dropout: Share of the hidden layer that is dropped in training.
        normalise: Bring what enters to unit length.
    """

    read_sides: ClassVar[tuple[Side, ...]] = ("text",)

    def __init__(self, blocks: int = 4, expansion: int = 2, dropout: float = 0.0, normalise: bool = True) -> None:
        super().__init__()
        if blocks < 0 or expansion < 1:
            raise ValueError(
                f"JointStack: blocks must not be negative and expansion at least 1, got {blocks} and {expansion}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"JointStack: dropout must lie in 0..1 (1 excluded), got {dropout}")
        self.blocks, self.expansion, self.dropout, self.normalise = blocks, expansion, dropout, normalise

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {
            "blocks": self.blocks,
            "expansion": self.expansion,
            "dropout": self.dropout,
            "normalise": self.normalise,
        }

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`."""
        width, out_dim = backbone.text.width, backbone.image.out_dim
        parts = [_Residual(width, self.expansion * width, self.dropout) for _ in range(self.blocks)]
        self.stack = nn.Sequential(*parts, nn.LayerNorm(width), nn.Linear(width, out_dim))
        self.to(backbone.logit_scale.device)

    def reads(self, side: Side) -> Collection[str]:
        """See `Adapter.reads`."""
        return ()

    def readout(self, side: Side, tower: Tower, state: TokenState) -> Features:
        """See `Adapter.readout`."""
        if side == "image":
            return super().readout(side, tower, state)
        return {"text.pooled": self._joint(tower.pool(state))}

    def locals(self, side: Side, tower: Tower, state: TokenState) -> tuple[Tensor, Tensor]:
        """See `Adapter.locals`."""
        if side == "image":
            return super().locals(side, tower, state)
        tokens, mask = own_tokens(state)
        return self._joint(tower.alone(tokens)), mask

    def _joint(self, features: Tensor) -> Tensor:
        """Features `[..., width]` in the joint space."""
        joint: Tensor = self.stack(F.normalize(features, dim=-1) if self.normalise else features)
        return joint


class _Residual(nn.Module):
    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """`[..., width]` to the same."""
        return features + self.down(self.dropout(F.gelu(self.up(self.norm(features)))))
