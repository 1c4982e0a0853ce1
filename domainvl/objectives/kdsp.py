"""KDSP: distillation from selected prompts of a bank (BiomedCoOp, Koleilat et al., CVPR 2025, arXiv 2411.15232).

With f the frozen image features of a batch, E [C, N, D] the frozen features of the bank, both normalised, s the scale:

    s_i = mean_b max_c s f_b E_ci                              how well sentence i fits the batch
    z_i = (s_i - median s) / median |s - median s|             keep i where |z_i - mean z| <= tau std z
    e_c = norm(mean of the kept E_ci),  l_0 = s f e
    loss = sum_bc p_0 (log p_0 - log p) / (B C)                p_0 and p: the softmax of l_0 and of the adapted scores

z is s up to a shift and a positive factor, both of which cancel in the test: median and MAD do not decide anything,
except that the authors' code divides by zero where most scores are equal. So the test is made on s itself.

In multi-label data the bank has the yes sentences of all classes in front of the no sentences, scores are the
difference, and every finding is a choice of two.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from domainvl.features import Batch, FeatureKey, Features
from domainvl.objectives.base import Context, Objective
from domainvl.objectives.frozen_kl import divergence
from domainvl.objectives.sccm import BANK


class KDSP(Objective):
    """Score as the untouched model scores with those sentences of a bank that fit the batch like the others.

    Args:
        threshold: tau, in standard deviations (1.5 for most of the authors' data sets, 1.25 to 2).
        logits: Which scores learn, `[B, C]`.
        weight: Factor in the weighted sum (lambda_2 of the authors: 0.25 to 20, per data set).
    """

    def __init__(self, threshold: float = 1.5, logits: str = "image.logits", weight: float = 1.0) -> None:
        super().__init__(weight)
        if threshold < 1:
            raise ValueError(f"KDSP: threshold must be at least 1, below that no sentence may be left; got {threshold}")
        self.threshold, self.logits = threshold, str(FeatureKey.parse(logits))

    @property
    def needs(self) -> frozenset[str]:
        """The scores, the untouched model's images, the bank, and the labels for their shape alone."""
        return frozenset({self.logits, "frozen/image.pooled", BANK, "batch:label"})

    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The loss, and how many sentences were kept."""
        multilabel = batch["label"].dim() == 2
        with torch.no_grad():
            image = F.normalize(features["frozen/image.pooled"].float(), dim=-1)
            bank = F.normalize(features[BANK].float(), dim=-1)
            fit = torch.einsum("bd,cnd->bcn", image, bank).amax(dim=1).mean(dim=0)
            kept = self.kept(fit)
            chosen = F.normalize(bank[:, kept].mean(dim=1), dim=-1)
            frozen = context.scale * image @ chosen.T
            if multilabel:
                yes, no = frozen.chunk(2, dim=-1)
                frozen = yes - no
        loss = divergence(features[self.logits], frozen, multilabel)
        return {"loss": loss, "kept": kept.sum().to(loss.dtype)}

    def kept(self, fit: Tensor) -> Tensor:
        """Which sentences are no outliers by their fit `[N]`, `[N]`; of fewer than three all are kept."""
        if len(fit) < 3:
            return torch.ones_like(fit, dtype=torch.bool)
        return (fit - fit.mean()).abs() <= self.threshold * fit.std()
