"""Records of one patient or one study are no negatives of each other."""

from __future__ import annotations

import torch

from domainvl.objectives.targets.base import Pairs, Step, TargetPolicy, Tile, with_target, without


class SameGroup(TargetPolicy):
    """Records with the same number are matches, or are left out.

    Several images of a study share a report: they match. Two studies of a patient may differ: leave them out.

    Args:
        by: The batch key with the numbers: `study` for studies, `group` for patients.
        drop: Leave them out of the denominator rather than take them for matches.
    """

    def __init__(self, by: str = "study", drop: bool = False) -> None:
        self.by, self.drop = by, drop

    def needs(self, source: str, target: str) -> frozenset[str]:
        """The numbers."""
        return frozenset({f"batch:{self.by}"})

    def bind(self, pairs: Pairs, before: Step) -> Step:
        """See the class."""
        rows, columns = pairs.sides.value(self.by)

        def step(tile: Tile) -> Tile:
            tile = before(tile)
            same = rows[tile.rows, None] == columns[None, tile.columns]
            return (
                without(tile, same)
                if self.drop
                else with_target(tile, torch.maximum(tile.target, same.to(tile.target)))
            )

        return step
