"""CLAM-MB: attention over tiles with a branch per class (Lu et al., Nature BME 2021, arXiv 2004.09666).

As ABMIL, which is CLAM-SB, but w has a row per class, every class pools tiles of its own, and scores them with its own
row of the classifier: `image.logits_c = C_c . sum_i a_ci h_i`. The loss is `.7 ClassCrossEntropy + .3 ClamInstances`.

Differs from the authors' code: several slides at once, shorter ones filled up and masked.
"""

from __future__ import annotations

from torch import Tensor

from domainvl.adapters.abmil import ABMIL


class CLAM(ABMIL):
    """Attention pooling of a slide's tiles for every class, and a linear score of each."""

    def _branches(self, classes: int) -> int:
        return classes

    def _classified(self, pooled: Tensor) -> Tensor:
        return (pooled * self.classifier.weight).sum(dim=-1) + self.classifier.bias
