"""Class by class: a table that sorts, and the curves behind its numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from domainvl.evaluation.bootstrap import Interval
from domainvl.evaluation.curves import GRID, Drawn, PrecisionRecall, Roc, bands
from domainvl.evaluation.metrics import Bools, Floats, as_binary
from domainvl.evaluation.predictions import Predictions
from domainvl.report.html import Markup, div, figure, lead, section, tag
from domainvl.report.names import MINUS, MODELS, number, span
from domainvl.report.record import Record, as_interval
from domainvl.report.svg import SHARE, Axis, Plot, strip
from domainvl.report.table import Cell, table

Ends = tuple[Floats, Floats]

_KINDS: tuple[type[Roc | PrecisionRecall], ...] = (Roc, PrecisionRecall)
_FLOOR = 0.4
"""Where the line of an AUROC begins, or lower where an interval does."""
_PANELS = 24
_RESAMPLES = 300


def per_class(record: Record) -> Markup | None:
    """The table; None where the run had no classes."""
    found = record.metrics["per_class"]
    if not found:
        return None
    adapted = len(record.models) == 2
    heads = ["Class", "Positive", *(f"AUROC {MODELS[model]}" for model in record.models)]
    heads += ["Difference", ""] if adapted else [""]
    heads += ["AUPRC", "F1"]
    results = {name: [as_interval(result[model]["auroc"]) for model in record.models] for name, result in found.items()}
    ends = [one.low for values in results.values() for one in values if one.low is not None]
    floor = min([_FLOOR, *ends])
    lines = []
    for name, result in found.items():
        values, positive = results[name], result["n_positive"]
        total = positive + result["n_negative"]
        cells = [Cell(name), Cell(f"{positive:,}", positive, f"of {total:,}"), *map(_value, values)]
        if adapted:
            cells.append(_value(as_interval(result["difference"]["auroc"]), signed=True))
        shown = [(m, v.value, v.low, v.high) for m, v in zip(record.models, values, strict=True) if v.value is not None]
        cells.append(Cell(strip(shown, floor, 1.0) if shown else Markup("")))
        last = result[record.models[-1]]
        cells += [_value(as_interval(last[key])) for key in ("auprc", "f1")]
        lines.append(cells)
    said = "A click on a head sorts. AUROC 0.5 (the grey line) is chance, 1 is perfect; AUPRC and F1 are those of the "
    said += f"{MODELS[record.models[-1]]} model. Small numbers: 95 % intervals."
    names = (0, 5 if adapted else 3)
    return section(
        "classes", "Class by class", lead(said), table(heads, lines, label="Classes", names=names, sortable=True)
    )


def curves(record: Record) -> Markup | None:
    """ROC and precision-recall of every class; None without labels."""
    predictions = record.saved.classes
    if predictions is None or predictions.labels is None:
        return None
    binary, known = as_binary(predictions.labels, len(predictions.classes)), predictions.known
    positives, negatives = (binary & known).sum(axis=0), (~binary & known).sum(axis=0)
    drawable = [place for place in range(len(predictions.classes)) if positives[place] and negatives[place]]
    shown = sorted(drawable, key=lambda place: -positives[place])[:_PANELS]
    shown.sort()
    if not shown:
        return None
    last = predictions.final
    drawn: list[Drawn] = [
        kind(binary[:, place], known[:, place], last[:, place].astype(np.float64)) for place in shown for kind in _KINDS
    ]
    lone = len(set(predictions.patients)) == 1
    seed = record.metrics["bootstrap"]["seed"]
    around = [] if lone else bands(drawn, predictions.patients, resamples=_RESAMPLES, seed=seed)
    pairs = []
    for order, place in enumerate(shown):
        own: Sequence[Ends | None] = around[2 * order : 2 * order + 2] or (None, None)
        pairs.append(_pair(predictions, place, binary[:, place], known[:, place], own))
    left = len(drawable) - len(shown)
    said = "Left: what share of positives is found at which rate of false alarms; the diagonal is chance. Right: how "
    said += "many of those called positive are; the dotted line is the share of positives, which is chance."
    caption = "One patient, so no bands."
    if around:
        caption = f"Bands: pointwise 95 % over {_RESAMPLES} resamples of patients."
    if left:
        caption += f" Left out: the {left:,} with fewest positives."
    return section("curves", "Curves", lead(said), figure(caption, _legend(record), div("pairs", *pairs)))


def _value(value: Interval, signed: bool = False) -> Cell:
    return Cell(number(value.value, signed=signed), value.value, span(value, signed=signed))


def _legend(record: Record) -> Markup:
    return div("legend", *(tag("span", tag("i", class_=f"key {model}"), MODELS[model]) for model in record.models))


def _pair(
    predictions: Predictions,
    place: int,
    positive: Bools,
    known: Bools,
    around: Sequence[Ends | None],
) -> Markup:
    name = predictions.classes[place]
    models = [("zero_shot", predictions.zero_shot)]
    models += [] if predictions.adapted is None else [("adapted", predictions.adapted)]
    roc = Plot(f"ROC of {name}", Axis(f"1 {MINUS} specificity", SHARE), Axis("sensitivity", SHARE), 240, 222)
    recall = Plot(f"Precision over recall of {name}", Axis("recall", SHARE), Axis("precision", SHARE), 240, 222)
    roc.line([0, 1], [0, 1], "chance")
    prevalence = float((positive & known).sum() / known.sum())
    recall.line([0, 1], [prevalence, prevalence], "chance")
    ones = np.ones((1, len(predictions)))
    for model, scores in models:
        column = scores[:, place].astype(np.float64)
        for plot, kind, own in zip((roc, recall), _KINDS, around, strict=True):
            if own is not None and model == models[-1][0] and np.isfinite(own[0]).all():
                plot.band(GRID, *own, model)
            x, y = kind(positive, known, column).corners(ones)
            plot.line(x[0], y[0], model)
    return div("pair", tag("h4", name), div("two", roc.svg(), recall.svg()))
