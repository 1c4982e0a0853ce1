"""Stay close to what the frozen model says (the regulariser of MMRL, KgCoOp and their kin)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from domainvl.objectives._frozen import FrozenDistance


class FrozenCosine(FrozenDistance):
    """`1 - mean cos(f, f_frozen)` between the adapted and the frozen feature of one source.

    For `text` the mean runs over classes (over both prompts of a finding in multi-label data), for `image` over
    the batch. The frozen side carries no gradient.

    Args:
        source: `image` or `text`.
        weight: Factor in the weighted sum (lambda in MMRL, 8 in KgCoOp).
    """

    def distance(self, adapted: Tensor, frozen: Tensor) -> Tensor:
        """See `FrozenDistance.distance`."""
        return 1 - F.cosine_similarity(adapted, frozen, dim=-1).mean()
