"""PriorCLIP's attribution loss (arXiv 2405.10160): images and texts find the mean of their class in the other modality.

    m_c = mean of the normalised features of class c, of all processes
    q_ic = softmax over the classes of the batch of s f_i . m_c
    loss = half the cross-entropy of images against the means of texts, half that of texts against those of images

Differs from the released code, on purpose:

- there every record brings a column, so that a class of n records has n equal columns and one of them is the target:
  no features get below the mean of log n. Here a class is one column, and where every record has one class the loss can
  reach 0. Where all classes are of the same size n the two differ by log n and in no gradient;
- there classes are the beginnings of file names, numbered per process, and means are those of one process;
- a record whose class is unknown is in no mean and searches none; the width of features is not fixed.

A record of several classes has each as a target in equal shares, and its loss no less than the log of their number.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from domainvl.features import Batch, FeatureKey, Features
from domainvl.objectives.base import Context, Objective
from domainvl.objectives.contrast import contrast_logits
from domainvl.objectives.contrast_parts import halves, wide


class PriorAttribution(Objective):
    """Features of both sides are pulled to the mean of their class on the other side.

    Args:
        source: A pooled feature.
        target: Another.
        weight: Factor in the weighted sum.
    """

    def __init__(self, source: str = "image.pooled", target: str = "text.pooled", weight: float = 1.0) -> None:
        super().__init__(weight)
        self.source, self.target = (str(FeatureKey.parse(key)) for key in (source, target))

    @property
    def needs(self) -> frozenset[str]:
        """Both features, and labels; validity where there are several per record."""
        return frozenset({self.source, self.target, "batch:label", "batch:valid?"})

    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The loss, and how often the nearest mean is that of the own class."""
        label = batch["label"]
        if "valid" in batch and label.dim() == 2:
            label = torch.where(batch["valid"], label, 0.0)
        everywhere = context.gather(label)
        with torch.autocast(label.device.type, enabled=False):
            rows = [F.normalize(wide(features[key]), dim=-1) for key in (self.source, self.target)]
            means, there = zip(*(class_means(context.gather(one), everywhere) for one in rows), strict=True)
            own = _members(label, everywhere).to(rows[0].dtype)
            ways = [
                contrast_logits(
                    wide(context.scale) * rows[way] @ means[1 - way].T,
                    own,
                    there[1 - way].expand(len(own), -1),
                    gather=context.gather,
                )
                for way in (0, 1)
            ]
        done = halves(*ways)
        return {"loss": done.loss, "accuracy": done.accuracy}


def class_means(rows: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """The mean row of every class, and which classes there are.

    Args:
        rows: `[N, D]`.
        label: A class per row `[N]`, whose means are those of the classes that occur, in order; or 0 and 1, `[N, C]`.

    Returns:
        `[C, D]`, not normalised, and `[C]` bool.
    """
    members = _members(label, label).to(rows.dtype)
    count = members.sum(0)
    return members.T @ rows / count.clamp_min(1)[:, None], count > 0


def _members(label: Tensor, everywhere: Tensor) -> Tensor:
    """Which classes `[N, C]` rows have, of all that occur anywhere or that there are."""
    if label.dim() == 2:
        return label > 0.5
    return label[:, None] == torch.unique(everywhere)
