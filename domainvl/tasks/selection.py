"""What a choice on the validation split is made by: one number, fast enough for thousands of candidates.

`domainvl.evaluation` has the numbers that are reported.
"""

from __future__ import annotations

import torch
from torch import Tensor


def accuracy(scores: Tensor, label: Tensor) -> float:
    """Share of images whose highest score `[N, C]` is that of their class `[N]`."""
    return float((scores.argmax(dim=-1) == label).float().mean())


def mean_auroc(scores: Tensor, positive: Tensor, known: Tensor) -> float:
    """Mean area under the ROC curve over the findings that occur with both labels; 0.5 where there is none.

    Args:
        scores: `[N, C]`.
        positive: Which findings an image shows, `[N, C]`.
        known: Which labels are known, `[N, C]`.
    """
    areas = []
    for column, yes, valid in zip(scores.T, positive.T, known.T, strict=True):
        above, below = column[yes & valid].contiguous(), column[~yes & valid].sort().values
        if len(above) and len(below):
            # Pairs in the right order count one, pairs with equal scores one half.
            lower = torch.searchsorted(below, above) + torch.searchsorted(below, above, right=True)
            areas.append(lower.double().mean() / (2 * len(below)))
    return float(torch.stack(areas).mean()) if areas else 0.5
