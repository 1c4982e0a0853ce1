"""The result on the terminal: readable at 80 columns and without colour."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from domainvl.evaluation.alignment_result import AlignmentEvaluation
    from domainvl.evaluation.bootstrap import Interval
    from domainvl.evaluation.result import Evaluation, Intervals

_LABELS = {
    "auroc_macro": "AUROC, mean",
    "auprc_macro": "AUPRC, mean",
    "organ_auroc_macro": "AUROC, organs",
    "organ_auprc_macro": "AUPRC, organs",
    "accuracy": "accuracy",
    "accuracy_balanced": "bal. accuracy",
    "f1_macro": "F1, mean",
    "f1_macro_tuned": "F1, tuned",
    "f1_weighted_tuned": "F1, tuned, weighted",
    "calibration_error": "calib. error*",
    "mean_recall": "mean recall",
    "cnr": "CNR",
    "cnr_signed": "CNR, signed",
    "miou": "mIoU",
    "pointing": "pointing",
}
_WAYS = {"i2t": "img>txt", "t2i": "txt>img"}
_RETRIEVAL = re.compile(r"(i2t|t2i)_(?:([rp])(\d+)|median_rank)")


def print_table(evaluation: Evaluation, console: Console | None = None) -> None:
    """Print metrics, AUROC of every class, and notes.

    Args:
        evaluation: What to print.
        console: Where to; standard output when None.
    """
    patients = f"{evaluation.patients} patient{'s' if evaluation.patients != 1 else ''}"
    _print(evaluation, f"{evaluation.images} images of {patients}", evaluation.patients > 1, console)


def print_alignment(evaluation: AlignmentEvaluation, console: Console | None = None) -> None:
    """Print retrieval, grounding and class metrics, AUROC of every class, and notes.

    Args:
        evaluation: What to print.
        console: Where to; standard output when None.
    """
    counts = [f"{count} {what}" for what, count in evaluation.counts.items()]
    _print(evaluation, ", ".join(counts), evaluation.resamples > 0, console)


def print_means(title: str, models: Mapping[str, Intervals], console: Console | None = None) -> None:
    """Print a few metrics of several models side by side.

    Args:
        title: What they are of.
        models: Metrics by model; all have the first one's.
        console: Where to; standard output when None.
    """
    from rich.console import Console

    console = console or Console()
    table = _table([title, *(name.replace("_", "-") for name in models)])
    for metric in next(iter(models.values())):
        table.add_row(_plain(_label(metric)), *(_cell(values[metric]) for values in models.values()))
    console.print(table)
    console.print()


def _print(
    evaluation: Evaluation | AlignmentEvaluation, counted: str, intervals: bool, console: Console | None
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    adapted = evaluation.adapted is not None
    console.print()
    console.print(_metrics(evaluation, adapted))
    console.print()
    if evaluation.per_class:
        console.print(_classes(evaluation, adapted))
        console.print()
    notes = [f"{counted}; * lower is better."]
    if intervals:
        notes[0] += f" In brackets: 95 % interval, {evaluation.resamples} resamples of patients."
    for note in notes + evaluation.notes:
        # A hanging indent, so that a wrapped note does not look like two.
        line = Table.grid(padding=(0, 1))
        line.add_row("-", Text(note))
        console.print(line)


def _label(name: str) -> str:
    found = _RETRIEVAL.fullmatch(name)
    if found is None:
        return _LABELS.get(name, name)
    way, kind, k = found.groups()
    return f"{_WAYS[way]} {kind.upper()}@{k}" if kind else f"{_WAYS[way]} rank*"


def _metrics(evaluation: Evaluation | AlignmentEvaluation, adapted: bool) -> Table:
    columns = ["", "zero-shot", *(["adapted", "difference"] if adapted else [])]
    table = _table(columns)
    for name, value in evaluation.zero_shot.items():
        digits = 1 if name.endswith("median_rank") else 3
        cells = [_cell(value, digits)]
        if evaluation.adapted is not None and evaluation.difference is not None:
            cells += [_cell(evaluation.adapted[name], digits), _cell(evaluation.difference[name], digits, signed=True)]
        table.add_row(_plain(_label(name)), *cells)
    return table


def _classes(evaluation: Evaluation | AlignmentEvaluation, adapted: bool) -> Table:
    columns = ["AUROC", "pos.", "neg.", "zero-shot", *(["adapted", "diff."] if adapted else [])]
    table = _table(columns, numbers=(1, 2))
    for name, result in evaluation.per_class.items():
        cells = [_plain(str(result.positives)), _plain(str(result.negatives)), _cell(result.zero_shot["auroc"])]
        if result.adapted is not None and result.difference is not None:
            change = result.difference["auroc"].value
            cells += [_cell(result.adapted["auroc"]), _plain("-" if change is None else f"{change:+.3f}")]
        table.add_row(_plain(name), *cells)
    return table


def _table(columns: list[str], numbers: tuple[int, ...] = ()) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False, show_edge=False, highlight=False)
    for place, name in enumerate(columns):
        # Names fold rather than lose letters: the classes of a data set often differ only at the end.
        first = place == 0
        justify: Literal["left", "right"] = "right" if place in numbers else "left"
        table.add_column(name, justify=justify, no_wrap=not first, overflow="fold" if first else "ellipsis")
    return table


def _cell(value: Interval, digits: int = 3, signed: bool = False) -> Text:
    form = f"{{:{'+' if signed else ''}.{digits}f}}"
    if value.value is None:
        return _plain("-")
    cell = _plain(form.format(value.value))
    if value.low is not None and value.high is not None:
        cell.append(f" ({form.format(value.low)}, {form.format(value.high)})", style="dim")
    return cell


def _plain(text: str) -> Text:
    """Text in which brackets are brackets, not rich markup."""
    from rich.text import Text

    return Text(text)
