"""What other stains cost: the same patches as scanned and in named other stains, side by side.

Every shift is compared with the pictures as scanned on the same patients and resamples, so an interval of a difference
that leaves out 0 means that the shift matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from domainvl.evaluation.predictions import Predictions
from domainvl.evaluation.result import Intervals, evaluate

if TYPE_CHECKING:
    from rich.console import Console

_METRICS = ("auroc_macro", "accuracy", "accuracy_balanced")


@dataclass(frozen=True)
class ShiftResult:
    """One model in one stain.

    Attributes:
        scanned: Metrics of the pictures as scanned.
        shifted: Metrics of the same pictures in the other stain.
        difference: Shifted minus scanned, paired.
    """

    scanned: Intervals
    shifted: Intervals
    difference: Intervals


@dataclass(frozen=True)
class StainShiftTable:
    """Both models in every stain.

    Attributes:
        zero_shot: Results by name of the shift.
        adapted: The same of the adapted model; None for a zero-shot run.
        patients: Different patients.
    """

    zero_shot: Mapping[str, ShiftResult]
    adapted: Mapping[str, ShiftResult] | None
    patients: int

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        found: dict[str, Any] = {"n": {"patients": self.patients}}
        for model, results in (("zero_shot", self.zero_shot), ("adapted", self.adapted)):
            found[model] = None if results is None else {name: _plain(one) for name, one in results.items()}
        return found

    def show(self, console: Console | None = None) -> None:
        """Print AUROC, or accuracy, and its change in every stain.

        Args:
            console: Where to; standard output when None.
        """
        from rich import box
        from rich.console import Console
        from rich.table import Table

        heads = ("stain", "model", "AUROC", "change", "accuracy", "change")
        table = Table(*heads, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for model, results in (("zero-shot", self.zero_shot), ("adapted", self.adapted or {})):
            for name, one in results.items():
                cells = [
                    text
                    for metric in ("auroc_macro", "accuracy")
                    for text in (_cell(one.shifted, metric), _cell(one.difference, metric, "+"))
                ]
                table.add_row(name, model, *cells)
        (console or Console()).print(table)


def evaluate_stain_shifts(
    scanned: Predictions, shifted: Mapping[str, Predictions], *, seed: int, resamples: int = 1000
) -> StainShiftTable:
    """Compare predictions of the same patches in several stains.

    Args:
        scanned: Of the pictures as they are.
        shifted: Of the same pictures in other stains, by name.
        seed: Of the bootstrap over patients.
        resamples: How many resamples the intervals come from.
    """
    if not shifted:
        raise ValueError("evaluate_stain_shifts: shifted is empty; give the predictions of at least one other stain")
    zero_shot: dict[str, ShiftResult] = {}
    adapted: dict[str, ShiftResult] = {}
    for name, other in shifted.items():
        if other.ids != scanned.ids or (other.adapted is None) != (scanned.adapted is None):
            raise ValueError(
                f"evaluate_stain_shifts: the predictions {name!r} are of other patches or models; predict the same "
                "split with the same adapter in every stain"
            )
        zero_shot[name] = _compared(scanned, scanned.zero_shot, other.zero_shot, seed, resamples)
        if scanned.adapted is not None and other.adapted is not None:
            adapted[name] = _compared(scanned, scanned.adapted, other.adapted, seed, resamples)
    return StainShiftTable(zero_shot, adapted or None, len(set(scanned.patients)))


def _compared(about: Predictions, before: Any, after: Any, seed: int, resamples: int) -> ShiftResult:
    pair = Predictions(
        about.ids, about.patients, about.classes, about.multilabel, about.labels, about.valid, before, after
    )
    result = evaluate(pair, seed=seed, resamples=resamples)
    return ShiftResult(result.zero_shot, result.adapted or {}, result.difference or {})


def _plain(one: ShiftResult) -> dict[str, Any]:
    parts = {"scanned": one.scanned, "shifted": one.shifted, "difference": one.difference}
    return {
        part: {name: value.as_dict() for name, value in values.items() if name in _METRICS}
        for part, values in parts.items()
    }


def _cell(values: Intervals, name: str, sign: str = "") -> str:
    value = values.get(name)
    return "-" if value is None or value.value is None else f"{value.value:{sign}.3f}"
