"""How much of a zero-shot number is the choice of words, and of the number of tiles.

One ensemble of prompts gives one number. Slides are decided by a mean over some tiles, and published results move by a
factor of two with the prompt set and with that number (MI-Zero's own result files: balanced accuracy .41 to .92 over 50
prompt sets on the same slides). So both are reported: the spread over prompt sets, and the curve over tiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domainvl.evaluation.files import write_predictions
from domainvl.evaluation.outcome import Outcome
from domainvl.evaluation.predictions import Predictions
from domainvl.evaluation.result import Evaluation, evaluate, headline
from domainvl.evaluation.table import print_table


@dataclass(frozen=True)
class Spread:
    """One metric over several settings.

    Attributes:
        median: Half of the settings are below.
        low: A quarter of them.
        high: Three quarters.
        worst: The lowest.
        best: The highest.
    """

    median: float
    low: float
    high: float
    worst: float
    best: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Quartiles, interpolated between values."""
        low, median, high = np.quantile(np.asarray(values, dtype=np.float64), (0.25, 0.5, 0.75))
        return cls(float(median), float(low), float(high), float(min(values)), float(max(values)))


@dataclass(frozen=True, eq=False)
class SlideEvaluation:
    """An evaluation of slides.

    Attributes:
        evaluation: Zero-shot, with all prompts and the set number of tiles, and adapted.
        prompt_sets: How many prompt sets were drawn.
        spread: Zero-shot metrics over them; nothing where there was one.
        tiles: Zero-shot metrics with all prompts, by the number of tiles that are averaged.
    """

    evaluation: Evaluation
    prompt_sets: int
    spread: Mapping[str, Spread]
    tiles: Mapping[str, Mapping[str, float]]

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        spread = {name: vars(value) for name, value in self.spread.items()}
        return self.evaluation.as_dict() | {
            "prompt_sets": {"drawn": self.prompt_sets, "metrics": spread},
            "tiles": {count: dict(values) for count, values in self.tiles.items()},
        }


class ClassifiedSlides(Outcome):
    """Probabilities beside labels, and what zero-shot says with other words and other numbers of tiles.

    Args:
        predictions: What both models said.
        prompt_sets: Zero-shot probabilities of every prompt set, `[N, P, C]`.
        tiles: Zero-shot probabilities of every number of tiles, `[N, T, C]`.
        counts: These numbers, as they are called in `metrics.json`.
    """

    def __init__(
        self,
        predictions: Predictions,
        prompt_sets: NDArray[np.floating],
        tiles: NDArray[np.floating],
        counts: Sequence[str],
    ) -> None:
        self.predictions, self._prompt_sets, self._tiles, self._counts = predictions, prompt_sets, tiles, counts

    def write(self, path: Any) -> None:
        """See `Outcome`."""
        write_predictions(path, self.predictions)

    def measure(self, seed: int) -> SlideEvaluation:
        """See `Outcome`."""
        each = [self._headline(self._prompt_sets[:, number]) for number in range(self._prompt_sets.shape[1])]
        # With one setting a quartile says nothing.
        names = set.intersection(*map(set, each)) if len(each) > 1 else set()
        return SlideEvaluation(
            evaluate(self.predictions, seed=seed),
            len(each),
            {name: Spread.of([values[name] for values in each]) for name in each[0] if name in names},
            {name: self._headline(self._tiles[:, number]) for number, name in enumerate(self._counts)},
        )

    def show(self, measured: SlideEvaluation) -> None:
        """See `Outcome`."""
        notes = [f"{name} {value.median:.3f} ({value.low:.3f}, {value.high:.3f})" for name, value in _shown(measured)]
        if notes:
            measured.evaluation.notes.append(
                f"Zero-shot over {measured.prompt_sets} prompt sets, median and quartiles: {'; '.join(notes)}."
            )
        print_table(measured.evaluation)

    def _headline(self, scores: NDArray[np.floating]) -> dict[str, float]:
        given = self.predictions
        return headline(
            Predictions(
                given.ids, given.patients, given.classes, given.multilabel, given.labels, given.valid, scores, None
            )
        )


def _shown(measured: SlideEvaluation) -> list[tuple[str, Spread]]:
    return [(name, measured.spread[name]) for name in ("auroc_macro", "accuracy_balanced") if name in measured.spread]
