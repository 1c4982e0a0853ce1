"""Stay close to the frozen model, component by component (PromptSRC, Khattak et al., ICCV 2023)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from domainvl.features import Batch, FeatureKey, Features
from domainvl.objectives.base import Context, Objective


class FrozenL1(Objective):
    """`mean |f - f_frozen|` over all components of the normalised features of one source.

    The frozen side carries no gradient.

    Args:
        source: `image` or `text`.
        weight: Factor in the weighted sum (PromptSRC: 25 for text, 10 for image).
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
        adapted = F.normalize(features[str(self.adapted)].float(), dim=-1)
        frozen = F.normalize(features[str(self.frozen)].float(), dim=-1).detach()
        return {"loss": F.l1_loss(adapted, frozen)}
