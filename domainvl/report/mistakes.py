"""Where the model was surest and wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from domainvl.evaluation.metrics import THRESHOLD
from domainvl.report.html import Markup, div, figure, lead, section, tag
from domainvl.report.names import MODELS
from domainvl.report.record import Record
from domainvl.report.table import Cell, table

MOST = 12


@dataclass(frozen=True)
class Mistake:
    """One wrong decision.

    Attributes:
        row: Line of `predictions.csv`, from 2 as an editor counts.
        image: Id of the image; never shown.
        truth: What the label says.
        said: What the model said.
        confidence: Probability of what it said.
    """

    row: int
    image: str
    truth: str
    said: str
    confidence: float


def worst(record: Record) -> list[Mistake]:
    """The most confident mistakes of the last model, the surest first."""
    predictions = record.saved.classes
    if predictions is None or predictions.labels is None:
        return []
    scores = predictions.final
    names, labels = predictions.classes, np.asarray(predictions.labels)
    if predictions.multilabel:
        sure = np.where(predictions.known, np.where(labels == 1, 1 - scores, scores), 0)
        # At the threshold and below it the decision is right.
        sure[sure <= THRESHOLD] = 0
    else:
        sure = np.zeros(scores.shape)
        called = np.argmax(scores, axis=1)
        wrong = np.flatnonzero(called != labels)
        sure[wrong, called[wrong]] = scores[wrong, called[wrong]]
    found: list[Mistake] = []
    for place in np.argsort(-sure, axis=None, kind="stable")[:MOST].tolist():
        row, column = divmod(place, len(names))
        if sure[row, column] == 0:
            break
        if predictions.multilabel:
            present = labels[row, column] == 1
            truth, said = (f"{names[column]} {'present' if one else 'absent'}" for one in (present, not present))
        else:
            truth, said = names[labels[row]], names[column]
        line = record.saved.rows[row] + 2
        found.append(Mistake(line, predictions.ids[row], truth, said, float(sure[row, column])))
    return found


def mistakes(record: Record, thumbnails: Mapping[str, Markup]) -> Markup | None:
    """Them as cards with pictures, or as a table where pictures are off; None where there are none.

    Args:
        record: The run.
        thumbnails: Pictures by image id.
    """
    found = worst(record)
    if not found:
        return None
    which = MODELS[record.models[-1]]
    said = f"Where the {which} model was surest and, by the labels, wrong; at times it is the label that is. "
    said += "Rows are lines of predictions.csv, which stays in the run folder."
    if not thumbnails:
        lines = [
            [
                Cell(f"row {one.row}", one.row),
                Cell(one.said),
                Cell(one.truth),
                Cell(f"{one.confidence:.3f}", one.confidence),
            ]
            for one in found
        ]
        heads = ["Image", "The model said", "The label says", "Probability"]
        shown = table(heads, lines, label="Most confident mistakes", names=(0, 1, 2), sortable=True)
    else:
        shown = figure("Pictures as the model saw them.", div("cards", *(_card(one, thumbnails) for one in found)))
    return section("mistakes", "Most confident mistakes", lead(said), shown)


def _card(one: Mistake, thumbnails: Mapping[str, Markup]) -> Markup:
    picture = thumbnails.get(one.image) or div("nopicture", "cannot be read")
    said = tag("b", f"{one.said} ({one.confidence:.2f})")
    return div("card", picture, said, tag("span", f"label: {one.truth}"), tag("small", f"row {one.row}"))
