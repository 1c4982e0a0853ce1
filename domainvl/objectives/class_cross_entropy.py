"""Cross-entropy over classes that exclude each other."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from domainvl.features import Batch, FeatureKey, Features
from domainvl.objectives.base import Context, Objective


class ClassCrossEntropy(Objective):
    """`CE(logits, label)`, the mean over the batch.

    Args:
        logits: Which scores, `[B, C]`.
        label_smoothing: Share of the target that is spread over all classes.
        weight: Factor in the weighted sum.
    """

    def __init__(self, logits: str = "image.logits", label_smoothing: float = 0.0, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.logits = str(FeatureKey.parse(logits))
        self.label_smoothing = label_smoothing

    @property
    def needs(self) -> frozenset[str]:
        """The scores and one class index per image."""
        return frozenset({self.logits, "batch:label"})

    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The loss."""
        label = batch["label"]
        if label.dim() != 1:
            raise ValueError(
                f"ClassCrossEntropy: labels of shape {tuple(label.shape)} are multi-label; use BinaryCrossEntropy"
            )
        logits = features[self.logits].float()
        return {"loss": F.cross_entropy(logits, label, label_smoothing=self.label_smoothing)}
