"""Runs side by side on a page."""

from __future__ import annotations

from pathlib import Path

from domainvl.evaluation.bootstrap import Interval
from domainvl.evaluation.files import whole_file
from domainvl.report.comparison import Comparison
from domainvl.report.html import Markup, div, lead, section, tag
from domainvl.report.names import LOWER_IS_BETTER, counted, metric, number, span
from domainvl.report.page import contents, footer, page, toggle
from domainvl.report.svg import strip
from domainvl.report.table import Cell, table

_TITLES = {"overall": "Metrics", "classes": "Class by class"}


def write_comparison(comparison: Comparison, path: Path) -> Path:
    """Write the page of a comparison."""
    sections = {"overall": _overall(comparison), "classes": _classes(comparison)}
    present = {key: part for key, part in sections.items() if part is not None}
    runs = counted(len(comparison.rows) - 1, "run")
    name = div("name", tag("h1", "Comparison"), tag("p", f"{runs} on the split {comparison.split}"))
    head = tag("header", name, toggle(), class_="top")
    links = contents([(key, _TITLES[key]) for key in present])
    with whole_file(path) as file:
        file.write(page("Comparison", [head, links, *present.values(), footer(pictures=False)]))
    return path


def shown_metrics(comparison: Comparison) -> list[str]:
    """Metrics that all models have, without those of single classes."""
    first = comparison.rows[0].values
    return [key for key in first if ":" not in key and all(key in row.values for row in comparison.rows)]


def verdict(name: str, change: Interval | None) -> str:
    """Whether a difference can be told from none."""
    if change is None or change.low is None or change.high is None:
        return ""
    if change.low <= 0 <= change.high:
        return "cannot be told apart"
    return "better" if (change.low > 0) != name.endswith(LOWER_IS_BETTER) else "worse"


def _overall(comparison: Comparison) -> Markup:
    reference = comparison.rows[0].name
    parts: list[Markup] = []
    for name in shown_metrics(comparison):
        lines = []
        for row in comparison.rows:
            value, change = row.values[name], row.differences.get(name)
            lines.append(
                [
                    Cell(row.name),
                    _value(value),
                    Cell("reference") if change is None else _value(change, signed=True),
                    Cell(verdict(name, change)),
                    Cell(_line(value)),
                ]
            )
        heads = ["Model", "Value", "Difference", "", "from 0 to 1"]
        parts += [
            tag("h3", metric(name)[0]),
            table(heads, lines, label=metric(name)[0], names=(0, 3, 4), sortable=True),
        ]
    said = (
        f"{counted(comparison.images, 'image')} of {counted(comparison.patients, 'patient')}, the same for every model."
    )
    if comparison.resamples:
        said += f" Intervals: 95 %, {comparison.resamples:,} resamples of patients, the same for all."
    said += f" Differences are paired and taken from {reference}. Many comparisons find a difference by chance: one in "
    said += "twenty where there is none."
    return section("overall", "Metrics", lead(said), *parts)


def _classes(comparison: Comparison) -> Markup | None:
    if not comparison.classes:
        return None
    heads = ["Class", *(row.name for row in comparison.rows)]
    lines = [
        [Cell(name), *(_value(row.values.get(f"auroc:{name}", Interval(None))) for row in comparison.rows)]
        for name in comparison.classes
    ]
    said = "AUROC of every model, with 95 % intervals. A click on a head sorts."
    return section("classes", "Class by class", lead(said), table(heads, lines, label="AUROC by class", sortable=True))


def _value(value: Interval, signed: bool = False) -> Cell:
    return Cell(number(value.value, signed=signed), value.value, span(value, signed=signed))


def _line(value: Interval) -> Markup:
    return Markup("") if value.value is None else strip([("adapted", value.value, value.low, value.high)], 0.0, 1.0)
