"""Binary cross-entropy over findings that may occur together, with labels that nobody gave left out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from domainvl.features import Batch, FeatureKey, Features
from domainvl.objectives.base import Context, Objective


class BinaryCrossEntropy(Objective):
    """Mean over all (image, finding) pairs that carry a label.

    Pairs with `valid` False (uncertain or blank, see `LabelPolicy`) get neither loss nor gradient. A batch without
    any label gives a loss of zero that still has a gradient, so that distributed training does not wait for it.

    Args:
        logits: Which scores, `[B, C]`.
        balance: Give positives and negatives of a finding the same total weight within the batch. Few-shot
            draws have k positives of each finding among the images of all others.
        weight: Factor in the weighted sum.
    """

    def __init__(self, logits: str = "image.logits", balance: bool = False, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.logits = str(FeatureKey.parse(logits))
        self.balance = balance

    @property
    def needs(self) -> frozenset[str]:
        """The scores, a 0/1 label and a validity flag per image and finding."""
        return frozenset({self.logits, "batch:label", "batch:valid"})

    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The loss."""
        label, valid = batch["label"], batch["valid"]
        logits = features[self.logits].float()
        if label.shape != logits.shape:
            raise ValueError(
                f"BinaryCrossEntropy: labels of shape {tuple(label.shape)} do not fit scores of shape "
                f"{tuple(logits.shape)}; classes that exclude each other want ClassCrossEntropy"
            )
        target = torch.where(valid, label.float(), 0.5)
        share = valid.float()
        if self.balance:
            share = share * _balanced(target, valid)
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return {"loss": (loss * share).sum() / share.sum().clamp_min(1e-12)}


def _balanced(target: Tensor, valid: Tensor) -> Tensor:
    """Weights `[B, C]` under which both labels of a finding weigh the same; 1 where only one occurs."""
    positive = (valid & (target == 1)).sum(0)
    negative = (valid & (target == 0)).sum(0)
    both = (positive > 0) & (negative > 0)
    total = (positive + negative).float()
    of_positive = torch.where(both, total / (2 * positive.clamp_min(1)), 1.0)
    of_negative = torch.where(both, total / (2 * negative.clamp_min(1)), 1.0)
    return torch.where(target == 1, of_positive, of_negative)
