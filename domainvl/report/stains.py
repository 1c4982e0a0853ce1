"""The same pictures in other stains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from domainvl.evaluation.bootstrap import Interval
from domainvl.report.html import Markup, lead, section, tag
from domainvl.report.names import MODELS, metric, number, span
from domainvl.report.record import Record, as_interval
from domainvl.report.table import Cell, table

_SHOWN = ("auroc_macro", "accuracy")


def stains(record: Record) -> Markup | None:
    """What other stains change, by model; None for a run that did not ask."""
    facts = record.metrics.get("stain_shifts")
    if not facts:
        return None
    heads = ["Stain", *(name for one in _SHOWN for name in (metric(one)[0], "change"))]
    said = "The test pictures again, as other laboratories would stain them. A change whose interval leaves out 0 is "
    said += "no accident of these patients."
    parts = [
        part
        for model in reversed(record.models)
        for part in (
            tag("h3", MODELS[model]),
            table(heads, [_line(name, one) for name, one in facts[model].items()], label=f"Stains, {MODELS[model]}"),
        )
    ]
    return section("stains", "Other stains", lead(said), *parts)


def _line(name: str, one: Mapping[str, Any]) -> list[Cell]:
    cells = [Cell(name)]
    for key in _SHOWN:
        for part, signed in (("shifted", False), ("difference", True)):
            value: Interval = as_interval(one[part].get(key))
            cells.append(Cell(number(value.value, signed=signed), value.value, span(value, signed=signed)))
    return cells
