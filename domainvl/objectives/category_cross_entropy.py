"""Cross-entropy in which similar classes weigh more among the negatives (our reading of DCAR, arXiv 2508.04028)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from domainvl.features import Batch, FeatureKey, Features
from domainvl.objectives.base import Context, Objective


class CategoryCrossEntropy(Objective):
    """`-log e^l_y / (e^l_y + sum_{c != y} w_yc e^l_c)`, `w_yc = (C - 1) softmax_{c != y}(cos(t_y, t_c) / temperature)`.

    t are the frozen class features. Weights of a class sum to C - 1, so equally similar classes give plain
    cross-entropy.

    Args:
        logits: Which scores, `[B, C]`.
        temperature: How much the most similar class stands out; lower is more.
        weight: Factor in the weighted sum.
    """

    def __init__(self, logits: str = "image.logits", temperature: float = 0.1, weight: float = 1.0) -> None:
        super().__init__(weight)
        if temperature <= 0:
            raise ValueError(f"CategoryCrossEntropy: temperature must be positive, got {temperature}")
        self.logits, self.temperature = str(FeatureKey.parse(logits)), temperature

    @property
    def needs(self) -> frozenset[str]:
        """The scores, the frozen class features and one class index per image."""
        return frozenset({self.logits, "frozen/text.pooled", "batch:label"})

    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The loss."""
        label = batch["label"]
        if label.dim() != 1:
            raise ValueError(
                f"CategoryCrossEntropy: labels of shape {tuple(label.shape)} are multi-label; use BinaryCrossEntropy"
            )
        text = F.normalize(features["frozen/text.pooled"].float(), dim=-1)
        same = torch.eye(len(text), dtype=torch.bool, device=text.device)
        shares = (text @ text.T / self.temperature).masked_fill(same, -torch.inf).log_softmax(dim=-1)
        log_weights = (shares + torch.log(torch.tensor(len(text) - 1.0))).masked_fill(same, 0.0)
        return {"loss": F.cross_entropy(features[self.logits].float() + log_weights[label], label)}
