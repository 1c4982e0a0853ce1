"""Cross-modal prototype alignment of MGCA (Wang et al., NeurIPS 2022, arXiv 2210.06044).

With K learned prototypes c, images x and reports y, all of length one:

    q = Sinkhorn(e^{x c^T / epsilon})        p = softmax(x c^T / t)
    loss = 1/2 [- mean_b q(x_b) log p(y_b)  - mean_b q(y_b) log p(x_b)]

The codes q share the batch out evenly over prototypes: rows of the [K, B] matrix are scaled to 1/K and columns to 1/B,
a few times over. They carry no gradient. Prototypes keep the length 1, and stay as they are in the first epoch.

The authors' code has a distributed form that is never chosen; here codes are always those of the batch of all
processes. Its exponentials reach 5e8, which fp16 does not hold: here they are at most 1, in fp32. The scores are of the
model's own joint space; the authors' two heads with batch normalisation in front of it are left out.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domainvl.features import Batch, FeatureKey, Features
from domainvl.objectives._tokens import exact
from domainvl.objectives.base import Context, Objective
from domainvl.objectives.contrast_parts import row_sum, wide


class MgcaPrototype(Objective):
    """An image predicts the cluster of its report, a report that of its image.

    Args:
        source: A pooled feature.
        target: Another.
        prototypes: K.
        temperature: t, of the prediction.
        epsilon: Of the codes; smaller is sharper.
        iterations: Of Sinkhorn and Knopp.
        frozen_epochs: Epochs in which prototypes do not learn.
        weight: Factor in the weighted sum.
    """

    prototypes: nn.Parameter

    def __init__(
        self,
        source: str = "image.pooled",
        target: str = "text.pooled",
        prototypes: int = 500,
        temperature: float = 0.2,
        epsilon: float = 0.05,
        iterations: int = 3,
        frozen_epochs: int = 1,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        if prototypes < 2:
            raise ValueError(f"MgcaPrototype: prototypes must be at least 2, got {prototypes}")
        if temperature <= 0 or epsilon <= 0:
            raise ValueError(
                f"MgcaPrototype: temperature and epsilon must be positive, got {temperature} and {epsilon}"
            )
        if iterations < 1 or frozen_epochs < 0:
            raise ValueError(
                f"MgcaPrototype: iterations must be at least 1 and frozen_epochs not negative, got {iterations} and "
                f"{frozen_epochs}"
            )
        self.source, self.target = (str(FeatureKey.parse(key)) for key in (source, target))
        self.count, self.temperature, self.epsilon = prototypes, temperature, epsilon
        self.iterations, self.frozen_epochs = iterations, frozen_epochs

    @property
    def needs(self) -> frozenset[str]:
        """Both features."""
        return frozenset({self.source, self.target})

    def attach(self, sizes: Mapping[str, int]) -> None:
        """Draw the prototypes."""
        width = sizes[self.source]
        if sizes[self.target] != width:
            raise ValueError(
                f"MgcaPrototype: {self.source} has {width} numbers and {self.target} {sizes[self.target]}; prototypes "
                f"want features of one space"
            )
        self.prototypes = nn.Parameter(F.normalize(torch.randn(self.count, width), dim=-1))

    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The loss, and how many prototypes the images of this process are nearest to."""
        source, target = (F.normalize(wide(features[key]), dim=-1) for key in (self.source, self.target))
        prototypes = F.normalize(self.prototypes.detach(), dim=-1)
        if self.training:
            with torch.no_grad():
                self.prototypes.copy_(prototypes)
            # A gradient of zero: distributed training waits for one; what weight decay shortens is made length 1 again.
            prototypes = self.prototypes if context.epoch >= self.frozen_epochs else self._unmoved()
        with exact(source):
            scores = [side @ prototypes.to(side).T for side in (source, target)]
            codes = [self.codes(score, context) for score in scores]
            logs = [(score / self.temperature).log_softmax(dim=1) for score in scores]
            each = -(codes[0] * logs[1] + codes[1] * logs[0]).sum(dim=1) / 2
            everybody = torch.ones_like(each, dtype=torch.bool)
            loss = each.sum() / row_sum(everybody, None, each.dtype, "sum", context.gather)
        used = F.one_hot(scores[0].detach().argmax(dim=1), self.count).amax(dim=0).sum()
        return {"loss": loss, "used": used.to(loss.dtype)}

    @torch.no_grad()
    def codes(self, scores: Tensor, context: Context) -> Tensor:
        """The codes of the rows of this process, `[B, K]`, among those of all."""
        everybody = context.gather(scores.detach())
        codes = sinkhorn(everybody / self.epsilon, self.iterations)
        return codes[context.offset : context.offset + len(scores)]

    def _unmoved(self) -> Tensor:
        return self.prototypes.detach() + 0.0 * self.prototypes


def sinkhorn(scores: Tensor, iterations: int) -> Tensor:
    """Codes `[B, K]`: rows sum to 1, and columns to nearly B / K."""
    count, width = scores.shape
    shares = (scores - scores.max()).exp()
    shares = shares / shares.sum()
    tiny = torch.finfo(shares.dtype).tiny
    for _ in range(iterations):
        shares = shares / shares.sum(dim=0).clamp_min(tiny) / width
        shares = shares / shares.sum(dim=1, keepdim=True).clamp_min(tiny) / count
    return shares / shares.sum(dim=1, keepdim=True).clamp_min(tiny)
