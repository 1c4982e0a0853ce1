"""What the model decided: right and wrong by class, and whether its probabilities can be taken at their word."""

from __future__ import annotations

import numpy as np

from domainvl.evaluation.curves import reliability
from domainvl.evaluation.metrics import THRESHOLD
from domainvl.evaluation.predictions import Predictions
from domainvl.report.html import Markup, div, figure, lead, section, tag
from domainvl.report.names import MODELS, number, share, span
from domainvl.report.record import Record, as_interval
from domainvl.report.svg import SHARE, Axis, Plot

_MATRIX = 25
"""More classes than this do not fit a matrix that can be read."""


def decisions(record: Record) -> Markup | None:
    """2 x 2 tables or the confusion matrix of the last model; None without labels."""
    predictions = record.saved.classes
    if predictions is None or predictions.labels is None:
        return None
    which = MODELS[record.models[-1]]
    scores = predictions.final
    if predictions.multilabel:
        said = f"The {which} model, finding by finding, decided at a probability of {THRESHOLD:g}, which was not tuned."
        return section("decisions", "Decisions", lead(said), _findings(predictions, scores > THRESHOLD))
    if len(predictions.classes) > _MATRIX:
        said = f"{len(predictions.classes)} classes are too many for a matrix; the table by class has them all."
        return section("decisions", "Decisions", lead(said))
    said = f"The {which} model. A row is what an image shows, a column what the model called it; the diagonal is right."
    return section("decisions", "Confusion matrix", lead(said), _matrix(predictions, np.argmax(scores, axis=1)))


def calibration(record: Record) -> Markup | None:
    """The reliability diagram of each model; None without labels."""
    predictions = record.saved.classes
    if predictions is None or predictions.labels is None:
        return None
    panels = []
    for model, scores in (("zero_shot", predictions.zero_shot), ("adapted", predictions.adapted)):
        if scores is None:
            continue
        found = reliability(predictions, scores.astype(np.float64))
        plot = Plot(
            f"Reliability, {MODELS[model]}", Axis("probability stated", SHARE), Axis("share seen", SHARE), 300, 270
        )
        plot.bars(found.said, 0.22 * found.count / found.count.max(), 0.018, "count")
        plot.line([0, 1], [0, 1], "chance")
        plot.line(found.said, found.seen, model)
        plot.dots(found.said, found.seen, model, 3.5)
        error = as_interval(record.metrics[model].get("calibration_error"))
        text = f"ECE {number(error.value)}" + (f" ({span(error)})" if span(error) else "")
        panels.append(div("panel", tag("h4", MODELS[model].capitalize()), tag("p", text, class_="sub"), plot.svg()))
    said = "A probability that can be taken at its word lies on the diagonal: of all decisions stated with 0.8, 80 in "
    said += "100 are so. Below it the model is too sure, above it too modest."
    pooled = "All findings together; the ECE is the mean over findings." if predictions.multilabel else ""
    caption = f"Grey bars: how many decisions. {pooled}".strip()
    return section("calibration", "Calibration", lead(said), figure(caption, div("panels", *panels)))


def _findings(predictions: Predictions, called: np.ndarray) -> Markup:
    labels = np.asarray(predictions.labels) == 1
    cards = []
    for place, name in enumerate(predictions.classes):
        known = predictions.known[:, place]
        truth, said = labels[known, place], called[known, place]
        hit, miss = int((truth & said).sum()), int((truth & ~said).sum())
        alarm, clear = int((~truth & said).sum()), int((~truth & ~said).sum())
        cells = (
            ("found", hit, hit + miss, "right"),
            ("missed", miss, hit + miss, "wrong"),
            ("false alarm", alarm, alarm + clear, "wrong"),
            ("cleared", clear, alarm + clear, "right"),
        )
        boxes = [
            _box(f"{count:,}", word, share(count, of), kind, count / of if of else 0) for word, count, of, kind in cells
        ]
        rows = [
            tag("tr", tag("th", "present", scope="row"), *boxes[:2]),
            tag("tr", tag("th", "absent", scope="row"), *boxes[2:]),
        ]
        head = tag(
            "tr", tag("td", ""), tag("th", "called present", scope="col"), tag("th", "called absent", scope="col")
        )
        grid = tag("table", tag("thead", head), tag("tbody", *rows), class_="four", aria_label=f"Decisions on {name}")
        rates = f"sensitivity {share(hit, hit + miss)}, specificity {share(clear, alarm + clear)}"
        cards.append(div("panel", tag("h4", name), tag("p", rates, class_="sub"), grid))
    caption = "Rows: what the image shows. Shares are of the row; the fuller the colour, the more of its row. "
    return figure(f"{caption}Labels that are unknown do not count.", div("panels", *cards))


def _matrix(predictions: Predictions, called: np.ndarray) -> Markup:
    names, size = predictions.classes, len(predictions.classes)
    counts = np.zeros((size, size), dtype=np.int64)
    np.add.at(counts, (np.asarray(predictions.labels), called), 1)
    head = tag("tr", tag("td", ""), *(tag("th", tag("span", name), scope="col") for name in names))
    lines = []
    for row, name in enumerate(names):
        total = int(counts[row].sum())
        boxes = []
        for column, count in enumerate(counts[row].tolist()):
            kind = "right" if row == column else "wrong"
            boxes.append(_box(f"{count:,}" if count else "", "", "", kind, count / total if total else 0))
        lines.append(tag("tr", tag("th", name, tag("small", f"{total:,}"), scope="row"), *boxes))
    grid = tag("table", tag("thead", head), tag("tbody", *lines), class_="matrix", aria_label="Confusion matrix")
    box = tag("div", grid, class_="scroll", tabindex="0", role="region", aria_label="Confusion matrix")
    return figure("Numbers are images; the fuller the colour, the more of its row. Small: images of the class.", box)


def _box(count: str, word: str, of: str, kind: str, strength: float) -> Markup:
    """A field of a table of decisions, darker the more of its row it holds."""
    inside = [tag("b", count), tag("em", of) if of else None, tag("span", word) if word else None]
    return tag("td", *inside, class_=kind, style=f"--strength:{strength:.2f}")
