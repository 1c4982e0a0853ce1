"""Score as the frozen model scores (PromptSRC, Khattak et al., ICCV 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from domainvl.features import Batch, FeatureKey, Features
from domainvl.objectives.base import Context, Objective


class FrozenKL(Objective):
    """`sum_bc p_0 (log p_0 - log p) / (B C)`, where p_0 and p are what both models make of an image.

    That is KL(p_0 || p), divided by the number of classes as well: the authors' scale. In multi-label data every
    finding is a choice of two, and the mean runs over all (image, finding) pairs, known or not, as no label is read.
    The frozen side carries no gradient. (`Distillation` is the cross-entropy between two scores, with a temperature.)

    Args:
        logits: Which scores, `[B, C]`.
        weight: Factor in the weighted sum.
    """

    def __init__(self, logits: str = "image.logits", weight: float = 1.0) -> None:
        super().__init__(weight)
        self.logits = str(FeatureKey.parse(logits))

    @property
    def needs(self) -> frozenset[str]:
        """The scores of both models, and the labels for their shape alone."""
        return frozenset({self.logits, "frozen/image.logits", "batch:label"})

    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The loss."""
        multilabel = batch["label"].dim() == 2
        return {"loss": divergence(features[self.logits], features["frozen/image.logits"], multilabel)}


def divergence(scores: Tensor, frozen: Tensor, multilabel: bool) -> Tensor:
    """KL of `scores` from `frozen`, `[B, C]` both, over the number of scores."""
    scores, frozen = scores.float(), frozen.float().detach()
    if multilabel:
        pairs = [(F.logsigmoid(s * scores), F.logsigmoid(s * frozen)) for s in (1, -1)]
    else:
        pairs = [(scores.log_softmax(dim=1), frozen.log_softmax(dim=1))]
    total = torch.stack([F.kl_div(ours, theirs, reduction="sum", log_target=True) for ours, theirs in pairs]).sum()
    return total / scores.numel()
