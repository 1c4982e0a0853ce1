"""InfoNCE between two features (CLIP, arXiv 2103.00020), with the options of ALIGN (2102.05918) and ALBEF (2107.07651).

ALIGN is `label_smoothing: 0.1`; ALBEF's image-text term is `teacher: true, queue: true` with the policy `Momentum`;
UniME's is `symmetric: false` with `FalseNegativeFilter` and `HardNegatives`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from domainvl.features import Batch, FeatureKey, Features
from domainvl.objectives.base import Context, Objective
from domainvl.objectives.contrast import both_ways, contrast
from domainvl.objectives.targets.base import Pairs, Sides, TargetPolicy, bind, policy_needs, queued, taught


class InfoNCE(Objective):
    """Every row of `source` finds its partner among all of `target`, and the other way round.

    Args:
        source: A pooled feature.
        target: Another; `text@caption.pooled` is another text, `image@second.pooled` another view.
        targets: Policies of what counts as a match and what counts at all, applied from left to right.
        label_smoothing: Share of the target that is spread evenly over all columns.
        symmetric: Both ways, or source to target alone.
        teacher: The columns are the teacher's (`ema/`).
        queue: Features of earlier batches are further columns.
        tiled: See `contrast`; null decides by size.
        weight: Factor in the weighted sum.
    """

    def __init__(
        self,
        source: str = "image.pooled",
        target: str = "text.pooled",
        targets: Sequence[TargetPolicy] = (),
        label_smoothing: float = 0.0,
        symmetric: bool = True,
        teacher: bool = False,
        queue: bool = False,
        tiled: bool | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self.source, self.target = (str(FeatureKey.parse(key)) for key in (source, target))
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"InfoNCE: label_smoothing must be at least 0 and below 1, got {label_smoothing}")
        if self.source == self.target and not teacher:
            raise ValueError(
                f"InfoNCE: source and target are both {self.source!r}, so everybody finds themselves; name a second "
                f"view or text, or let the columns be the teacher's (teacher: true)"
            )
        self.policies, self.label_smoothing = list(targets), label_smoothing
        self.symmetric, self.teacher, self.queue, self.tiled = symmetric, teacher, queue, tiled
        self._needs = self._collect()

    @property
    def needs(self) -> frozenset[str]:
        """Both features, those of teacher and queue where they take part, and what the policies read."""
        return self._needs

    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The loss, and how often the best partner is a match."""
        sides = Sides(features, batch, context, self.queue)
        keys = [(self.source, self.target)] + [(self.target, self.source)] * self.symmetric
        columns = {key: self._columns(key, features, context) for _, key in keys}
        rules = [bind(self.policies, Pairs(*way, features[way[0]], columns[way[1]], sides)) for way in keys]
        if self.symmetric:
            done = both_ways(
                features[self.source],
                features[self.target],
                context,
                columns=(columns[self.source], columns[self.target]),
                rules=(rules[0], rules[1]),
                label_smoothing=self.label_smoothing,
                tiled=self.tiled,
            )
        else:
            done = contrast(
                features[self.source],
                columns[self.target],
                context.scale,
                rules[0],
                offset=context.offset,
                label_smoothing=self.label_smoothing,
                gather=context.gather,
                tiled=self.tiled,
            )
        return {"loss": done.loss, "accuracy": done.accuracy}

    def _columns(self, key: str, features: Features, context: Context) -> Tensor:
        columns = context.gather(features[taught(key)].detach() if self.teacher else features[key])
        return torch.cat([columns, features[queued(key)].detach().to(columns.dtype)]) if self.queue else columns

    def _collect(self) -> frozenset[str]:
        both = {self.source, self.target}
        columns = both if self.symmetric else {self.target}
        needs = both | {taught(key) for key in columns if self.teacher} | {queued(key) for key in columns if self.queue}
        return frozenset(needs) | policy_needs(self.policies, self.source, self.target, self.queue)
