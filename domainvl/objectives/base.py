"""An objective: one loss over features and batch, with a weight.

`needs` names the features and batch keys that it reads; the task checks them once, before training starts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from domainvl.features import Batch, Features


@dataclass(frozen=True)
class Context:
    """What an objective may know beyond features and batch.

    Attributes:
        scale: The factor that cosines are multiplied with.
        epoch: Epoch that is running, from 0.
    """

    scale: Tensor
    epoch: int


class Objective(nn.Module, ABC):
    """Base of all objectives.

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
        """Feature keys (`image.pooled`) and batch keys (`batch:label`) that `forward` reads."""

    @abstractmethod
    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """A dict with the scalar `loss`, unweighted, and detached values to log."""
