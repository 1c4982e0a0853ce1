"""An objective: one loss over features and batch, with a weight.

`needs` names the features and batch keys that it reads; the task checks them once, before training starts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from domainvl.features import Batch, Features

Gather = Callable[[Tensor], Tensor]
"""Rows `[B, ...]` of this process to those of all, in order of rank; gradients find their way back."""

BATCH, OPTIONAL = "batch:", "?"


def alone(rows: Tensor) -> Tensor:
    """The gather of a single process."""
    return rows


@dataclass(frozen=True)
class Context:
    """What an objective may know beyond features and batch.

    Contrastive losses compare the rows of this process with the columns of all: `gather` makes the columns, and row i
    here is column `offset + i` there. The mean over local rows is what they return, so that the gradients which
    distributed training averages are those of one process with the whole batch.

    Attributes:
        scale: The factor that cosines are multiplied with; it carries a gradient where the temperature is trained.
        epoch: Epoch that is running, from 0.
        step: Optimiser steps taken so far.
        gather: See `Gather`.
        offset: Number, among all rows, of this process's first.
        bias: What is added to scaled cosines in sigmoid losses; None where the model has none.
    """

    scale: Tensor
    epoch: int
    step: int = 0
    gather: Gather = alone
    offset: int = 0
    bias: Tensor | None = None


class Objective(nn.Module, ABC):
    """Base of all objectives.

    Heads that only training wants are sub-modules that `attach` makes; they are never exported. Running values are
    buffers; checkpoints hold both.

    Args:
        weight: Factor in the weighted sum.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"{type(self).__name__}: weight must not be negative, got {weight}")
        self.weight = weight

    @property
    @abstractmethod
    def needs(self) -> frozenset[str]:
        """Feature keys (`image.pooled`) and batch keys (`batch:label`) that `forward` reads; `?` ends optional ones."""

    def attach(self, sizes: Mapping[str, int]) -> None:
        """Make heads. Called once, in set-up, with the last dimension of every feature that will be there."""

    @abstractmethod
    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """A dict with the scalar `loss`, unweighted, and detached values to log."""


def required(needs: Iterable[str]) -> set[str]:
    """The needs that are not optional."""
    return {need for need in needs if not need.endswith(OPTIONAL)}


def feature_needs(needs: Iterable[str]) -> set[str]:
    """Feature keys among needs, optional ones included."""
    return {need.removesuffix(OPTIONAL) for need in needs if not need.startswith(BATCH)}


def batch_needs(needs: Iterable[str]) -> set[str]:
    """Batch keys among needs that have to be there."""
    return {need.removeprefix(BATCH) for need in required(needs) if need.startswith(BATCH)}
