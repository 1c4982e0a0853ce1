"""What a task hands over when an evaluation is done: something to write down row by row, and something to measure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from domainvl.evaluation.files import Measured, write_predictions
from domainvl.evaluation.predictions import Predictions
from domainvl.evaluation.result import Beside, Evaluation, evaluate
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


Besides = Callable[..., Beside]
"""Measures something else of the same test; takes `seed`, that of the bootstrap."""


class Classified(Outcome):
    """Probabilities beside labels.

    Args:
        predictions: What both models said.
        besides: What else is measured, by its name in `metrics.json`.
    """

    def __init__(self, predictions: Predictions, besides: Mapping[str, Besides] | None = None) -> None:
        self.predictions = predictions
        self._besides = besides or {}

    def write(self, path: Path) -> None:
        """See `Outcome`."""
        write_predictions(path, self.predictions)

    def measure(self, seed: int) -> Evaluation:
        """See `Outcome`."""
        besides = {name: measure(seed=seed) for name, measure in self._besides.items()}
        return replace(evaluate(self.predictions, seed=seed), besides=besides)

    def show(self, measured: Evaluation) -> None:
        """See `Outcome`."""
        print_table(measured)
        for beside in measured.besides.values():
            beside.show()
