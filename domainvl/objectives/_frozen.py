"""Distances between what the adapted and the frozen model make of one source."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from domainvl.features import Batch, FeatureKey, Features
from domainvl.objectives.base import Context, Objective


class FrozenDistance(Objective):
    """How far the pooled feature of one source has moved from the frozen model's, which carries no gradient.

    Args:
        source: `image` or `text`.
        weight: Factor in the weighted sum.
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
        return {"loss": self.distance(adapted, features[str(self.frozen)].float().detach())}

    @abstractmethod
    def distance(self, adapted: Tensor, frozen: Tensor) -> Tensor:
        """The mean distance between features that are not normalised, `[N, D]` both."""
