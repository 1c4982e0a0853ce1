"""Stay close to the frozen model, component by component (PromptSRC, Khattak et al., ICCV 2023)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from domainvl.objectives._frozen import FrozenDistance


class FrozenL1(FrozenDistance):
    """`mean |f - f_frozen|` over all components of the normalised features of one source.

    The frozen side carries no gradient.

    Args:
        source: `image` or `text`.
        weight: Factor in the weighted sum (PromptSRC: 25 for text, 10 for image).
    """

    def distance(self, adapted: Tensor, frozen: Tensor) -> Tensor:
        """See `FrozenDistance.distance`."""
        return F.l1_loss(F.normalize(adapted, dim=-1), F.normalize(frozen, dim=-1))
