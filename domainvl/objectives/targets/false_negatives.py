"""Negatives that fit better than the match are most likely none (UniME, arXiv 2504.17432; OpenShape, 2305.10764)."""

from __future__ import annotations

from domainvl.objectives.targets.base import Pairs, Step, TargetPolicy, Tile, without


class FalseNegativeFilter(TargetPolicy):
    """Leave out column j of row i where cos_ij > cos_ii + margin.

    Args:
        margin: How much better than the match (0.1 in UniME).
    """

    def __init__(self, margin: float = 0.1) -> None:
        self.margin = margin

    def bind(self, pairs: Pairs, before: Step) -> Step:
        """See the class."""
        limit = pairs.own_cosines() + self.margin

        def step(tile: Tile) -> Tile:
            return without(before(tile), tile.cosines > limit[tile.rows, None].to(tile.cosines))

        return step
