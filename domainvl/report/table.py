"""Tables: numbers that line up, columns that sort."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from domainvl.report.html import Markup, div, tag


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: What is shown.
        value: What the column is sorted by; the text when None.
        note: Shown smaller beneath, for example an interval.
    """

    text: str
    value: float | None = None
    note: str = ""

    def show(self, number: bool, first: bool) -> Markup:
        """The cell in a column of numbers, or of names; the first column names the row."""
        note = tag("small", self.note) if self.note else None
        kind = "number" if number else None
        if first:
            return tag("th", self.text, note, scope="row", class_=kind, data_value=self.value)
        return tag("td", self.text, note, class_=kind, data_value=self.value)


def table(
    heads: Sequence[str],
    lines: Sequence[Sequence[Cell]],
    *,
    label: str,
    names: Sequence[int] = (0,),
    sortable: bool = False,
) -> Markup:
    """A table that scrolls in its own box where it is too wide.

    Args:
        heads: Names of the columns.
        lines: Cells, row by row; the first of a row names it.
        label: What a screen reader calls the table.
        names: Columns that hold words; the others hold numbers.
        sortable: Whether a click on a head sorts.
    """
    tops = []
    for place, head in enumerate(heads):
        # A column of drawings has nothing to sort by.
        drawn = all(isinstance(line[place].text, Markup) for line in lines)
        text = tag("button", head, type="button") if sortable and head and not drawn else head
        tops.append(tag("th", text, scope="col", class_=None if place in names else "number"))
    body = [
        tag("tr", *(cell.show(place not in names, place == 0) for place, cell in enumerate(line))) for line in lines
    ]
    made = tag(
        "table",
        tag("thead", tag("tr", *tops)),
        tag("tbody", *body),
        aria_label=label,
        class_="sortable" if sortable else None,
    )
    return tag("div", made, class_="scroll", tabindex="0", role="region", aria_label=label)


def tiles(pairs: Sequence[tuple[str, str]]) -> Markup:
    """A few numbers, each above its name."""
    return div("tiles", *(div("tile", tag("b", number), tag("span", name)) for number, name in pairs))
