"""The pairwise sigmoid loss (SigLIP, Zhai et al., ICCV 2023, arXiv 2303.15343).

    loss = 1/B sum_ij V_ij softplus(-z_ij (s cos(a_i, b_j) + bias)),    z = 1 for a match, -1 for all others

Every pair stands alone, so its slope is known at once: tiles of scores are made once, and never more than one is there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domainvl.features import Batch, FeatureKey, Features
from domainvl.objectives.base import Context, Objective
from domainvl.objectives.contrast_parts import own, sum_type, tile_of, wide
from domainvl.objectives.contrast_strips import strips
from domainvl.objectives.targets.base import Pairs, Sides, TargetPolicy, bind, policy_needs


class SigLIP(Objective):
    """Every pair of a row of `source` and a row of `target` is a match or it is not.

    Args:
        source: A pooled feature.
        target: Another.
        targets: Policies: whoever has a target is a match, whoever is not valid is left out.
        own_bias: Where a bias starts that belongs to this objective, is trained and never exported: for models that
            have none (the authors start at -10). Null: the model's.
        weight: Factor in the weighted sum.
    """

    def __init__(
        self,
        source: str = "image.pooled",
        target: str = "text.pooled",
        targets: Sequence[TargetPolicy] = (),
        own_bias: float | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self.source, self.target = (str(FeatureKey.parse(key)) for key in (source, target))
        self.policies = list(targets)
        self.bias = None if own_bias is None else nn.Parameter(torch.tensor(float(own_bias)))

    @property
    def needs(self) -> frozenset[str]:
        """Both features and what the policies read."""
        return frozenset({self.source, self.target}) | policy_needs(self.policies, self.source, self.target)

    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The loss."""
        bias = context.bias if self.bias is None else self.bias
        if bias is None:
            raise ValueError("SigLIP: the model has no bias and own_bias is null; give own_bias, e.g. -10")
        a, b = features[self.source], context.gather(features[self.target])
        pairs = Pairs(self.source, self.target, a, b, Sides(features, batch, context))
        rule = bind(self.policies, pairs)
        factor, shift = context.scale.detach(), bias.detach()

        def finish(rows: slice, columns: slice, scores: Tensor) -> Tensor:
            valid = None
            if rule is None:
                match = own(rows, columns, context.offset, scores.device)
            else:
                target, valid = rule(rows, columns, (scores - shift) / factor)
                match = (target > 0) & valid
            # softplus(-x) = softplus(x) - x, so that all pairs are treated alike at first.
            each = F.softplus(scores)
            if valid is not None:
                each.masked_fill_(~valid, 0.0)
            loss = each.sum(dtype=sum_type(scores)) - scores[match].sum(dtype=sum_type(scores))
            scores.sigmoid_()
            scores -= match.to(scores.dtype)
            if valid is not None:
                scores.masked_fill_(~valid, 0.0)
            return loss

        with torch.autocast(a.device.type, enabled=False):
            a, b = wide(a), wide(b)
            total = strips(a, b, context.scale.to(a.dtype), bias.to(a.dtype), finish, tile_of(a))
        return {"loss": total / context.gather(total.new_tensor([float(len(a))])).mean()}
