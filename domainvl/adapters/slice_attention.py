"""Attention over the slices of a volume: gated multiple-instance pooling (Ilse et al., ICML 2018, arXiv 1802.04712).

With f_d the pooled feature of slice d of D, in front of the projection, and n its layer norm without parameters:

    a_d = w . (tanh(V n_d) * sigmoid(U n_d))        V, U [width, d], w [width]
    f   = mean_d f_d + sum_d (softmax(a)_d - 1 / D) f_d

which is sum_d softmax(a)_d f_d, written so that w = 0, the start, is the mean over slices bit for bit.

Differs from the paper: biases as in the authors' code; a norm in front, since pooled features of VLMs have any scale; w
starts at zero.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domainvl.adapters._slices import slices_of
from domainvl.adapters.base import Adapter, Side
from domainvl.backbones.base import Backbone
from domainvl.features import Features
from domainvl.tokens import TokenState
from domainvl.towers.base import Tower


class SliceAttention(Adapter):
    """Learned weights of slices in place of equal ones.

    Args:
        width: Size of the hidden layers V and U.
    """

    read_sides: ClassVar[tuple[Side, ...]] = ("image",)

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"SliceAttention: width must be positive, got {width}")
        self.width = width

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {"width": self.width}

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`."""
        size = slices_of("SliceAttention", backbone.image).pooled_width
        self.content, self.gate = nn.Linear(size, self.width), nn.Linear(size, self.width)
        self.score = nn.Parameter(torch.zeros(self.width))
        self.to(backbone.logit_scale.device)

    def reads(self, side: Side) -> Collection[str]:
        """See `Adapter.reads`."""
        return ()

    def weights(self, slices: Tensor) -> Tensor:
        """Weights of the slices `[B, D, d]` of a volume, which sum to 1, `[B, D]`."""
        normed = F.layer_norm(slices.float(), slices.shape[-1:])
        hidden = torch.tanh(self.content(normed)) * torch.sigmoid(self.gate(normed))
        return (hidden @ self.score).softmax(dim=1)

    def readout(self, side: Side, tower: Tower, state: TokenState) -> Features:
        """See `Adapter.readout`."""
        if side == "text":
            return super().readout(side, tower, state)
        slices = slices_of("SliceAttention", tower).per_slice(state)
        weights = self.weights(slices)
        # Of ones, so that it is rounded as the softmax of equal scores is.
        equal = torch.zeros_like(weights).softmax(dim=1)
        moved = ((weights - equal)[..., None] * slices).sum(dim=1)
        return {"image.pooled": tower.project(slices.mean(dim=1) + moved.to(slices.dtype))}
