"""Learning curves, from `log.csv`."""

from __future__ import annotations

from collections.abc import Sequence

from domainvl.report.html import Markup, div, figure, lead, section, tag
from domainvl.report.names import metric
from domainvl.report.record import Record
from domainvl.report.svg import Axis, Plot

_VALIDATED = ("mean_recall", "auroc_macro", "auprc_macro", "accuracy", "f1_macro", "calibration_error", "pointing")
_SHOWN = 4
_SERIES = 6
"""Colours of the style sheet for series."""

Points = list[tuple[float, float]]


def learning(record: Record) -> Markup | None:
    """Losses and validation numbers over epochs; None for a run that trained nothing."""
    # What an objective logs beside its loss has a dot in its name.
    losses = {
        name.removeprefix("train/"): _points(record, name) for name in _columns(record, "train/") if "." not in name
    }
    validated = {name: _points(record, f"val/{name}") for name in _VALIDATED}
    losses, validated = ({k: v for k, v in one.items() if v} for one in (losses, validated))
    if not losses and not validated:
        return None
    end = max(x for points in (*losses.values(), *validated.values()) for x, _ in points)
    parts = []
    total = losses.pop("loss", None)
    if total:
        parts.append(_panel("Training loss", [("loss", total)], end))
    if losses:
        parts.append(_panel("Its terms, unweighted", list(losses.items())[:_SERIES], end))
    for name, points in list(validated.items())[:_SHOWN]:
        parts.append(_panel(f"Validation: {metric(name)[0]}", [(name, points)], end, share=True))
    said = lead("A loss that still falls asks for more epochs; a validation number that turns asks for fewer.")
    caption = "Mean over each epoch. Dots: the epochs after which the validation split was measured."
    return section("learning", "Learning", said, figure(caption, div("panels", *parts)))


def _columns(record: Record, prefix: str) -> list[str]:
    return sorted({name for row in record.log for name in row if name.startswith(prefix)})


def _points(record: Record, name: str) -> Points:
    return [(row.get("epoch", row["step"]) + 1, row[name]) for row in record.log if name in row]


def _panel(title: str, series: Sequence[tuple[str, Points]], end: float, share: bool = False) -> Markup:
    heights = [y for _, points in series for _, y in points]
    low = min(heights) if share else min(0.0, *heights)
    axis = Axis.around("", low, max(heights))
    if share and axis.high > 1 >= max(heights):
        axis = Axis("", tuple(tick for tick in axis.ticks if tick <= 1), axis.form)
    plot = Plot(title, Axis.around("epoch", 0, end, whole=True), axis)
    legend = []
    for place, (name, points) in enumerate(series):
        kind = f"s{place + 1}"
        plot.line([x for x, _ in points], [y for _, y in points], kind)
        if share or len(points) == 1:
            plot.dots([x for x, _ in points], [y for _, y in points], kind)
        legend.append(tag("span", tag("i", class_=f"key {kind}"), name))
    key = div("legend", *legend) if len(series) > 1 else None
    return div("panel", tag("h4", title), plot.svg(), key)
