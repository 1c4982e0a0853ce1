"""Stay close to what the frozen model says (the regulariser of MMRL, KgCoOp and their kin)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from domainvl.features import Batch, FeatureKey, Features
from domainvl.objectives.base import Context, Objective


class FrozenCosine(Objective):
    """`1 - mean cos(f, f_frozen)` between the adapted and the frozen feature of one source.

    For `text` the mean runs over classes (over both prompts of a finding in multi-label data), for `image` over
    the batch. The frozen side carries no gradient.

    Args:
        source: `image` or `text`.
        weight: Factor in the weighted sum (lambda in MMRL, 8 in KgCoOp).
    """

    def __init__(self, source: str, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.adapted = FeatureKey(source, "pooled")
        self.frozen = FeatureKey(source, "pooled", role="frozen")

    @property
    def needs(self) -> frozenset[str]:
        """The feature from both models."""
        return frozenset({str(self.adapted), str(self.frozen)})

    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The loss."""
        adapted = features[str(self.adapted)].float()
        frozen = features[str(self.frozen)].float().detach()
        return {"loss": 1 - F.cosine_similarity(adapted, frozen, dim=-1).mean()}
