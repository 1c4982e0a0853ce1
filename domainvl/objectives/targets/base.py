"""What counts as a match, and what counts at all: small policies that compose from left to right.

A policy never sees more than a tile of rows and columns, so that a large batch needs no matrix. It may look at
everything about the two sides that is known without a gradient. Targets need not be normalised: the kernel does that
once, at the end. A row's own column is always valid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from domainvl.features import Batch, FeatureKey, Features
from domainvl.objectives.base import BATCH, Context
from domainvl.objectives.contrast_parts import Rule, cuts, own, tile_of, wide


@dataclass(frozen=True)
class Tile:
    """Some rows against some columns.

    Attributes:
        rows: Which rows.
        columns: Which columns.
        cosines: Of the compared features, `[r, c]`.
        target: P, at least 0, not normalised, `[r, c]`.
        valid: V, `[r, c]` bool.
    """

    rows: slice
    columns: slice
    cosines: Tensor
    target: Tensor
    valid: Tensor


Step = Callable[[Tile], Tile]


@dataclass
class Sides:
    """Values of rows here and of columns everywhere, gathered once for both directions of a loss.

    Attributes:
        features: Of this step.
        batch: Of this step.
        context: Of this step.
        queue: Whether features of earlier batches follow the columns.
    """

    features: Features
    batch: Batch
    context: Context
    queue: bool = False
    _columns: dict[str, Tensor] = field(default_factory=dict)

    def feature(self, key: str) -> tuple[Tensor, Tensor]:
        """Rows `[B, D]` and columns `[M, D]` of a feature, normalised, without gradient."""
        rows = F.normalize(wide(self.features[key].detach()), dim=-1)
        if key not in self._columns:
            columns = self.context.gather(rows)
            if self.queue:
                older = self.features[queued(key)].detach().to(rows.dtype)
                columns = torch.cat([columns, F.normalize(older, dim=-1)])
            self._columns[key] = columns
        return rows, self._columns[key]

    def value(self, key: str) -> tuple[Tensor, Tensor]:
        """Rows `[B, ...]` and columns `[M, ...]` of a batch key."""
        rows = self.batch[key]
        name = f"batch:{key}"
        if name not in self._columns:
            columns = self.context.gather(rows)
            if self.queue:
                columns = torch.cat([columns, self.batch[f"queue/{key}"].to(columns)])
            self._columns[name] = columns
        return rows, self._columns[name]


@dataclass(frozen=True)
class Pairs:
    """One direction: rows against columns.

    Attributes:
        row_key: Which feature the rows are.
        column_key: Which feature the columns are.
        raw_rows: Those of this process, `[B, D]`.
        raw_columns: Those of all processes, then the queue, `[M, D]`.
        sides: Where to look for more.
    """

    row_key: str
    column_key: str
    raw_rows: Tensor
    raw_columns: Tensor
    sides: Sides

    @cached_property
    def rows(self) -> Tensor:
        """The rows, normalised, without gradient."""
        return F.normalize(wide(self.raw_rows.detach()), dim=-1)

    @cached_property
    def columns(self) -> Tensor:
        """The columns, normalised, without gradient."""
        return F.normalize(wide(self.raw_columns.detach()), dim=-1)

    @property
    def context(self) -> Context:
        """Of this step."""
        return self.sides.context

    def own(self, rows: slice, columns: slice) -> Tensor:
        """Which entries belong to a row's own column, `[r, c]`."""
        return own(rows, columns, self.context.offset, self.raw_rows.device)

    def tile(self, rows: slice, columns: slice, cosines: Tensor | None = None) -> Tile:
        """A tile in which a row's own column is its target and everything is valid."""
        if cosines is None:
            cosines = self.rows[rows] @ self.columns[columns].T
        mine = self.own(rows, columns)
        return Tile(rows, columns, cosines, mine.to(cosines.dtype), torch.ones_like(mine))

    def own_cosines(self) -> Tensor:
        """Of every row and its own column, `[B]`."""
        start = self.context.offset
        return (self.rows * self.columns[start : start + len(self.rows)]).sum(-1)

    def sweep(self, step: Step) -> Iterator[Tile]:
        """All tiles after a step, for a policy that has to know whole rows."""
        height, width = tile_of(self.rows)
        for rows in cuts(len(self.rows), height):
            for columns in cuts(len(self.columns), width):
                yield step(self.tile(rows, columns))


class TargetPolicy(ABC):
    """Base of all policies."""

    def needs(self, source: str, target: str) -> frozenset[str]:
        """Feature and batch keys that it reads where these two features are compared; the objective adds its own."""
        return frozenset()

    @abstractmethod
    def bind(self, pairs: Pairs, before: Step) -> Step:
        """The step from a bare tile to what this policy, after those `before` it, makes of it."""


def bind(policies: Sequence[TargetPolicy], pairs: Pairs) -> Rule | None:
    """The rule that policies make of two sides; None where there is no policy: everybody is their own match."""
    if not policies:
        return None

    step: Step = _nothing
    with torch.no_grad():
        for policy in policies:
            step = policy.bind(pairs, step)

    def rule(rows: slice, columns: slice, cosines: Tensor) -> tuple[Tensor, Tensor]:
        done = step(pairs.tile(rows, columns, cosines))
        return done.target, done.valid | pairs.own(rows, columns)

    return rule


def policy_needs(policies: Sequence[TargetPolicy], source: str, target: str, queue: bool = False) -> frozenset[str]:
    """What the policies of an objective need, for the queue too where it takes part."""
    found = frozenset[str]().union(*(policy.needs(source, target) for policy in policies))
    if not queue:
        return found
    frozen = sorted(need for need in found if need.startswith("frozen/"))
    if frozen:
        raise ValueError(
            f"targets: {', '.join(frozen)} of earlier batches are not kept, so they do not go with a queue; compare "
            f"features of the adapted model or of its teacher"
        )
    older = {_queued_need(need) for need in found}
    return found | older


def with_target(tile: Tile, target: Tensor) -> Tile:
    """The tile with other targets."""
    return replace(tile, target=target)


def without(tile: Tile, dropped: Tensor) -> Tile:
    """The tile without some of its pairs; those that are targets stay."""
    return replace(tile, valid=tile.valid & ~(dropped & (tile.target == 0)))


def best_columns(pairs: Pairs, before: Step, score: Callable[[Tile], Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The columns of the k highest scores of every row, -1 where there are fewer, `[B, k]`, and these scores.

    Args:
        pairs: Rows and columns.
        before: Makes a bare tile into one that is scored.
        score: Scores of a tile `[r, c]`, minus infinity for what is not to be chosen.
        k: How many.
    """
    size, device = len(pairs.rows), pairs.rows.device
    value = torch.full((size, k), -torch.inf, device=device, dtype=pairs.rows.dtype)
    column = torch.full((size, k), -1, device=device)
    for tile in pairs.sweep(before):
        scores = score(tile)
        places = torch.arange(tile.columns.start, tile.columns.stop, device=device).expand_as(scores)
        places = places.where(scores > -torch.inf, -1)
        found = torch.cat([value[tile.rows], scores], 1).topk(k, dim=1)
        value[tile.rows] = found.values
        column[tile.rows] = torch.cat([column[tile.rows], places], 1).gather(1, found.indices)
    return column, value


def chosen_of(columns: Tensor, tile: Tile) -> Tensor:
    """Which entries of a tile are among the columns `[B, k]` that were chosen for their row, `[r, c]`."""
    start, stop = tile.columns.start, tile.columns.stop
    chosen = columns[tile.rows]
    inside = (chosen >= start) & (chosen < stop)
    # One more column takes all that lie elsewhere.
    kept = torch.zeros(len(chosen), stop - start + 1, dtype=torch.bool, device=chosen.device)
    kept.scatter_(1, torch.where(inside, chosen - start, stop - start), True)
    return kept[:, :-1]


def queued(key: str) -> str:
    """The key of the same feature of earlier batches; they come from the teacher where there is one."""
    found = FeatureKey.parse(key)
    return str(replace(found, role="queue"))


def taught(key: str) -> str:
    """The key of the same feature of the teacher."""
    return str(replace(FeatureKey.parse(key), role="ema"))


def _queued_need(need: str) -> str:
    if need.startswith(BATCH):
        return f"{BATCH}queue/{need.removeprefix(BATCH)}"
    return queued(need)


def _nothing(tile: Tile) -> Tile:
    return tile
