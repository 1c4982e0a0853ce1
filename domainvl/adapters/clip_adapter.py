"""CLIP-Adapter: a bottleneck behind the image tower (Gao et al., IJCV 2024, arXiv 2110.04544).

With f the projected image feature, not normalised:

    f' = ratio ReLU(W_2 ReLU(W_1 f)) + (1 - ratio) f        W_1 [d / reduction, d], W_2 [d, d / reduction], no biases

and f' takes the place of f. The text tower stays as it is. The authors' loss is the cross-entropy of s cos(f', t).

Differs from the authors' code: sizes follow the backbone (theirs are those of one ResNet) and the ratio is an
argument. The paper also tries an adapter for text, which their code does not have.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from domainvl.adapters.base import Adapter, Side
from domainvl.backbones.base import Backbone
from domainvl.features import Features
from domainvl.tokens import TokenState
from domainvl.towers.base import Tower


class CLIPAdapter(Adapter):
    """Two learned layers on image features, mixed with what the backbone says.

    Args:
        ratio: Share of the learned feature.
        reduction: How many times narrower the hidden layer is.
    """

    def __init__(self, ratio: float = 0.2, reduction: int = 4) -> None:
        super().__init__()
        if not 0 < ratio <= 1:
            raise ValueError(f"CLIPAdapter: ratio must lie in 0..1 (0 excluded), got {ratio}")
        if reduction < 1:
            raise ValueError(f"CLIPAdapter: reduction must be positive, got {reduction}")
        self.ratio, self.reduction = ratio, reduction

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {"ratio": self.ratio, "reduction": self.reduction}

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`."""
        width = backbone.image.out_dim
        if self.reduction > width:
            raise ValueError(f"CLIPAdapter: reduction must be at most {width} here, got {self.reduction}")
        hidden = width // self.reduction
        self.bottleneck = nn.Sequential(
            nn.Linear(width, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, width, bias=False), nn.ReLU()
        ).to(backbone.logit_scale.device)

    def reads(self, side: Side) -> Collection[str]:
        """See `Adapter.reads`."""
        return ()

    def readout(self, side: Side, tower: Tower, state: TokenState) -> Features:
        """See `Adapter.readout`; `image.pooled` is the mixture."""
        features = super().readout(side, tower, state)
        if side == "image":
            plain = features["image.pooled"]
            learned = self.bottleneck(plain)
            features["image.pooled"] = self.ratio * learned + (1 - self.ratio) * plain
        return features
