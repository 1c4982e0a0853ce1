"""SCCM: semantic consistency with a bank of prompts (BiomedCoOp, Koleilat et al., CVPR 2025, arXiv 2411.15232)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from domainvl.features import Batch, Features
from domainvl.objectives.base import Context, Objective

BANK = "frozen/text@bank.tokens"
"""What the untouched model makes of every sentence of a prompt bank, `[C, N, D]`."""


class SCCM(Objective):
    """`mean (t_c - e_c)^2` over all components, with e_c = norm(mean_i norm(E_ci)) over the N sentences of class c.

    t_c is the normalised feature of the learned prompt, E the frozen features of the bank (`bank` of the task).

    Args:
        weight: Factor in the weighted sum (lambda_1 of the authors: 0.25 to 20, per data set).
    """

    @property
    def needs(self) -> frozenset[str]:
        """The texts of the adapted model and the bank."""
        return frozenset({"text.pooled", BANK})

    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The loss."""
        text = F.normalize(features["text.pooled"].float(), dim=-1)
        bank = F.normalize(features[BANK].float(), dim=-1).mean(dim=1)
        return {"loss": F.mse_loss(text, F.normalize(bank, dim=-1).detach())}
