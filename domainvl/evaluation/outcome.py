"""What a task hands over when an evaluation is done: something to write down row by row, and something to measure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from domainvl.evaluation.files import Measured, write_predictions
from domainvl.evaluation.predictions import Predictions
from domainvl.evaluation.result import Evaluation, evaluate
from domainvl.evaluation.table import print_table


class Outcome(ABC):
    """What an evaluation found, before it is measured."""

    @abstractmethod
    def write(self, path: Path) -> None:
        """Write `predictions.csv`: one row per image."""

    @abstractmethod
    def measure(self, seed: int) -> Measured:
        """The numbers; `seed` is that of the bootstrap."""

    @abstractmethod
    def show(self, measured: Any) -> None:
        """Print what `measure` gave as tables."""


class Classified(Outcome):
    """Probabilities beside labels.

    Args:
        predictions: What both models said.
    """

    def __init__(self, predictions: Predictions) -> None:
        self.predictions = predictions

    def write(self, path: Path) -> None:
        """See `Outcome`."""
        write_predictions(path, self.predictions)

    def measure(self, seed: int) -> Evaluation:
        """See `Outcome`."""
        return evaluate(self.predictions, seed=seed)

    def show(self, measured: Evaluation) -> None:
        """See `Outcome`."""
        print_table(measured)
