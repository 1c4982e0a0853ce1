"""Records with the same labels match (label-guided contrast; soft targets from labels as in MedCLIP)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from domainvl.objectives.targets.base import Pairs, Step, TargetPolicy, Tile, with_target


class LabelOverlap(TargetPolicy):
    """Targets from the overlap of two sets of labels (Jaccard: findings in common over findings of either).

    Only findings that are known for both records count (`batch:valid`). One label per record overlaps fully or not.

    Args:
        threshold: Overlap from which on two records match; None: the overlap itself is the target.
        empty: Whether two records without any finding among those known for both match.
    """

    def __init__(self, threshold: float | None = 0.5, empty: bool = False) -> None:
        if threshold is not None and not 0 < threshold <= 1:
            raise ValueError(f"LabelOverlap: threshold must be above 0 and at most 1, or null; got {threshold}")
        self.threshold, self.empty = threshold, empty

    def needs(self, source: str, target: str) -> frozenset[str]:
        """Labels; validity where there are several per record."""
        return frozenset({"batch:label", "batch:valid?"})

    def bind(self, pairs: Pairs, before: Step) -> Step:
        """See the class."""
        rows, columns = pairs.sides.value("label")
        if rows.dim() == 1:
            return self._step(before, lambda tile: (rows[tile.rows, None] == columns[None, tile.columns]).float())
        known = [torch.ones_like(side, dtype=torch.bool) for side in (rows, columns)]
        if "valid" in pairs.sides.batch:
            known = list(pairs.sides.value("valid"))
        # What nobody knows may be anything in the data, not-a-number included.
        has, lacks = zip(
            *(_split(side, valid) for side, valid in zip((rows, columns), known, strict=True)), strict=True
        )

        def overlap(tile: Tile) -> Tensor:
            i, j = tile.rows, tile.columns
            common = has[0][i] @ has[1][j].T
            either = common + has[0][i] @ lacks[1][j].T + lacks[0][i] @ has[1][j].T
            share = common / either.clamp_min(1)
            return torch.where(either == 0, (lacks[0][i] @ lacks[1][j].T > 0).float(), share) if self.empty else share

        return self._step(before, overlap)

    def _step(self, before: Step, overlap: Callable[[Tile], Tensor]) -> Step:
        def step(tile: Tile) -> Tile:
            tile = before(tile)
            share = overlap(tile)
            if self.threshold is not None:
                share = (share >= self.threshold - 1e-6).float()
            return with_target(tile, torch.maximum(tile.target, share.to(tile.target)))

        return step


def _split(label: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Known findings and known absences, `[n, C]` of 0 and 1."""
    present = torch.where(valid, label.float(), 0.0) > 0.5
    return present.float(), (valid & ~present).float()
