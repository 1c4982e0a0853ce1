"""Reports that mean the same as one's own are matches too: a semantic matching bank in our own reading.

MedVista3D (arXiv 2509.03800) matches reports against a bank of report embeddings. No code was released, and
bank size, number of matches and weights are not public; this is therefore our reading and not their method:

    M_i = the k reports of the bank, one's own left out, that are nearest to report i, with a cosine of at least t
    P_i <- (1 - alpha) P_i + alpha softmax over M_i of cosine / tau; unchanged where M_i is empty

The bank are the reports of the batch and, where the objective has a queue, those of earlier batches. On whole reports
(`InfoNCE`) and on organs (`OrganContrast`) together it makes the multi-scale loss.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from domainvl.features import FeatureKey
from domainvl.objectives.targets.base import Pairs, Step, TargetPolicy, Tile, best_columns, chosen_of, with_target


class SemanticBank(TargetPolicy):
    """Part of the target goes to the k nearest texts.

    Args:
        k: Most matches of a report.
        threshold: Least cosine of a match.
        alpha: Share of the target that matches get.
        temperature: tau; small ones favour the nearest.
        text: Which features of texts are compared; null for the untouched model's, of the text that the objective
            compares images with. With a queue they have to be the adapted model's or its teacher's.
    """

    def __init__(
        self,
        k: int = 5,
        threshold: float = 0.9,
        alpha: float = 0.5,
        temperature: float = 0.1,
        text: str | None = None,
    ) -> None:
        if k < 1:
            raise ValueError(f"SemanticBank: k must be at least 1, got {k}")
        if not 0 < threshold <= 1 or not 0 <= alpha < 1 or temperature <= 0:
            raise ValueError(
                "SemanticBank: threshold must be above 0 and at most 1, alpha at least 0 and below 1, temperature "
                f"above 0; got {threshold}, {alpha} and {temperature}"
            )
        self.k, self.threshold, self.alpha, self.temperature = k, threshold, alpha, temperature
        self.text = None if text is None else str(FeatureKey.parse(text))

    def needs(self, source: str, target: str) -> frozenset[str]:
        """The texts."""
        return frozenset({self._compared(source, target)})

    def bind(self, pairs: Pairs, before: Step) -> Step:
        """See the class."""
        rows, columns = pairs.sides.feature(self._compared(pairs.row_key, pairs.column_key))

        def near(tile: Tile) -> Tensor:
            cosines = rows[tile.rows] @ columns[tile.columns].T
            other = tile.valid & ~pairs.own(tile.rows, tile.columns) & (cosines >= self.threshold)
            return cosines.masked_fill(~other, -torch.inf)

        best, score = best_columns(pairs, before, near, self.k)
        total = pairs.rows.new_zeros(len(pairs.rows))
        for tile in pairs.sweep(before):
            total[tile.rows] += tile.target.masked_fill(~tile.valid, 0.0).sum(1)
        total.clamp_min_(torch.finfo(total.dtype).tiny)
        some = score.isfinite().any(1)
        log_sum = (score / self.temperature).logsumexp(1).masked_fill(~some, 0.0)

        def step(tile: Tile) -> Tile:
            tile = before(tile)
            mine = chosen_of(best, tile)
            soft = (near(tile) / self.temperature - log_sum[tile.rows, None]).exp()
            soft = soft.masked_fill(~mine, 0.0)
            hard = tile.target.masked_fill(~tile.valid, 0.0) / total[tile.rows, None]
            mixed = (1 - self.alpha) * hard + self.alpha * soft
            return with_target(tile, torch.where(some[tile.rows, None], mixed, hard))

        return step

    def _compared(self, source: str, target: str) -> str:
        if self.text is not None:
            return self.text
        texts = [key for key in map(FeatureKey.parse, (source, target)) if key.source == "text"]
        if not texts:
            raise ValueError(f"SemanticBank: neither {source} nor {target} is of texts; name text")
        return str(replace(texts[0], role="frozen"))
