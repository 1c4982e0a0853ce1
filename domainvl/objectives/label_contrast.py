"""Label-guided supervised contrast between and within modalities.

After Liu et al., "A Framework For Image Synthesis Using Supervised Contrastive Learning" (arXiv 2412.03957), and SupCon
(Khosla et al., arXiv 2004.11362; L_out). We know of no released code; this is the formula, and the image generator that
it serves is left out. Partners with the same label are those that the batch holds.

    P_ij = 1[records i and j have the same label] / n_i
    loss = inter (i2t + t2i) / 2 + inner (i2i + t2t) / 2

Within a modality nobody is their own partner, and who has no partner does not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from domainvl.features import Batch, FeatureKey, Features
from domainvl.objectives.base import Context, Objective
from domainvl.objectives.contrast import Contrast, Rule, both_ways, contrast
from domainvl.objectives.targets.base import Pairs, Sides, TargetPolicy, bind, policy_needs
from domainvl.objectives.targets.label_overlap import LabelOverlap


class LabelContrast(Objective):
    """Records that share their labels are pulled together, across modalities and within each.

    Args:
        source: A pooled feature.
        target: Another.
        targets: Who shares their labels; null: a Jaccard overlap of at least a half.
        inter: Factor of the two directions between modalities.
        inner: Factor of the two within.
        tiled: See `contrast`.
        weight: Factor in the weighted sum.
    """

    def __init__(
        self,
        source: str = "image.pooled",
        target: str = "text.pooled",
        targets: Sequence[TargetPolicy] | None = None,
        inter: float = 1.0,
        inner: float = 1.0,
        tiled: bool | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        if inter < 0 or inner < 0 or inter + inner == 0:
            raise ValueError(f"LabelContrast: inter and inner must not be negative nor both 0, got {inter} and {inner}")
        self.source, self.target = (str(FeatureKey.parse(key)) for key in (source, target))
        self.policies = [LabelOverlap()] if targets is None else list(targets)
        self.inter, self.inner, self.tiled = inter, inner, tiled

    @property
    def needs(self) -> frozenset[str]:
        """Both features and what the policies read."""
        return frozenset({self.source, self.target}) | policy_needs(self.policies, self.source, self.target)

    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The loss, and both parts."""
        sides = Sides(features, batch, context)
        keys = (self.source, self.target)
        columns = {key: context.gather(features[key]) for key in keys}

        def pairs(row: str, column: str) -> Pairs:
            return Pairs(row, column, features[row], columns[column], sides)

        done: dict[str, Tensor] = {}
        loss = columns[self.source].new_zeros((), dtype=torch.float32)
        if self.inter:
            ways = tuple(bind(self.policies, pairs(*way)) for way in (keys, keys[::-1]))
            both = both_ways(
                features[self.source],
                features[self.target],
                context,
                columns=(columns[self.source], columns[self.target]),
                rules=(ways[0], ways[1]),
                tiled=self.tiled,
            )
            loss = loss + self.inter * both.loss
            done |= {"inter": both.loss.detach(), "accuracy": both.accuracy}
        if self.inner:
            parts = [self._within(features[key], columns[key], pairs(key, key), context) for key in keys]
            within = (parts[0].loss + parts[1].loss) / 2
            loss = loss + self.inner * within
            done["inner"] = within.detach()
        return {"loss": loss, **done}

    def _within(self, rows: Tensor, columns: Tensor, pairs: Pairs, context: Context) -> Contrast:
        rule = partners(bind(self.policies, pairs), pairs)
        return contrast(
            rows, columns, context.scale, rule, offset=context.offset, gather=context.gather, tiled=self.tiled
        )


def partners(rule: Rule | None, pairs: Pairs) -> Rule:
    """The same rule without a row's own column, neither as a target nor in the denominator."""

    def others(rows: slice, columns: slice, cosines: Tensor) -> tuple[Tensor, Tensor]:
        mine = pairs.own(rows, columns)
        if rule is None:
            return torch.zeros_like(cosines), ~mine
        target, valid = rule(rows, columns, cosines)
        return target.masked_fill(mine, 0.0), valid & ~mine

    return others
