"""Reports that say the same are no negatives of each other."""

from __future__ import annotations

import torch

from domainvl.features import FeatureKey
from domainvl.objectives.targets.base import Pairs, Step, TargetPolicy, Tile, with_target, without


class TextSimilarity(TargetPolicy):
    """Pairs whose texts have at least a certain cosine are left out, or become soft targets with that cosine.

    Args:
        threshold: The cosine.
        soft: Take them for matches rather than leave them out.
        text: Which features of the text are compared; the untouched model's do not follow the training.
    """

    def __init__(self, threshold: float = 0.95, soft: bool = False, text: str = "frozen/text.pooled") -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"TextSimilarity: threshold must be above 0 and at most 1, got {threshold}")
        self.threshold, self.soft, self.text = threshold, soft, str(FeatureKey.parse(text))

    def needs(self, source: str, target: str) -> frozenset[str]:
        """The texts."""
        return frozenset({self.text})

    def bind(self, pairs: Pairs, before: Step) -> Step:
        """See the class."""
        rows, columns = pairs.sides.feature(self.text)

        def step(tile: Tile) -> Tile:
            tile = before(tile)
            cosines = rows[tile.rows] @ columns[tile.columns].T
            alike = cosines >= self.threshold
            if not self.soft:
                return without(tile, alike)
            return with_target(tile, torch.maximum(tile.target, torch.where(alike, cosines, 0.0).to(tile.target)))

        return step
