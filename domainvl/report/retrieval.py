"""Images and reports that find each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from domainvl.evaluation.bootstrap import LEVEL, patient_weights
from domainvl.evaluation.metrics import Floats
from domainvl.report.html import Markup, div, figure, lead, rows, section, tag
from domainvl.report.names import MODELS, counted
from domainvl.report.record import Record
from domainvl.report.svg import SHARE, Axis, Plot

_WAYS = {"i2t_rank": "An image finds its text", "t2i_rank": "A text finds its image"}
_RESAMPLES = 300
_FIRST = 40


def retrieval(record: Record) -> Markup | None:
    """Recall over how far one looks; None for a run without texts."""
    facts = record.metrics.get("retrieval")
    if not facts or not record.saved.ranks:
        return None
    last = int(min(_FIRST, max(_largest(facts["pool_images"]), _largest(facts["pool_texts"]))))
    panels = []
    for way, title in _WAYS.items():
        plot = Plot(title, Axis.around("looked at (k)", 0, last, whole=True), Axis("R@k", SHARE), 320, 250)
        chance = 1 / _largest(facts["pool_texts" if way == "i2t_rank" else "pool_images"])
        plot.line([0, last], [0, last * chance], "chance")
        for model in record.models:
            _draw(plot, record, f"{model}:{way}", model, last)
        panels.append(div("panel", tag("h4", title), plot.svg()))
    legend = div("legend", *(tag("span", tag("i", class_=f"key {model}"), MODELS[model]) for model in record.models))
    said = "How often the right one is among the first k that the model brings. The dotted line is chance."
    caption = f"Bands: pointwise 95 % over {_RESAMPLES} resamples of patients. A tie counts at its mean place."
    return section(
        "retrieval", "Retrieval", lead(said), figure(caption, legend, div("panels", *panels)), _counted_how(facts)
    )


def grounding(record: Record) -> Markup | None:
    """What phrase grounding was counted on; None for a run without boxes."""
    facts = record.metrics.get("grounding")
    if not facts:
        return None
    said = "Does the model look where the finding is? Each phrase of a report makes a map of the image, which is held "
    said += "against the box that a reader drew. The numbers are in the table of all metrics; maps need --images."
    pairs = [
        ("Phrases", f"{facts['phrases']:,}"),
        ("Boxes", f"{facts['boxes']:,}"),
        ("Boxes outside what the model sees", f"{facts['boxes_outside']:,}"),
    ]
    return section("grounding", "Grounding", lead(said), rows(pairs))


def _draw(plot: Plot, record: Record, column: str, model: str, last: int) -> None:
    ranks = record.saved.ranks.get(column)
    if ranks is None:
        return
    searched = np.flatnonzero(~np.isnan(ranks))
    ks = np.arange(1, last + 1, dtype=np.float64)
    hits = (ranks[searched, None] <= ks).astype(np.float64)
    patients = [record.saved.patients[row] for row in searched]
    if len(set(patients)) > 1 and model == record.models[-1]:
        plot.band(ks, *_band(hits, patients, record.metrics["bootstrap"]["seed"]), model)
    plot.line(ks, hits.mean(axis=0), model)


def _band(hits: Floats, patients: list[str], seed: int) -> tuple[Floats, Floats]:
    found = [w @ hits / w.sum(axis=1, keepdims=True) for w in patient_weights(patients, _RESAMPLES, seed)]
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(np.concatenate(found), [tail, 100 - tail], axis=0)
    return low, high


def _largest(size: int | list[int]) -> int:
    return size if isinstance(size, int) else max(size)


def _counted_how(facts: Mapping[str, Any]) -> Markup:
    return rows(
        [
            ("Protocol", f"{facts['protocol']}: what counts as found is “{facts['positives']}”"),
            (
                "Pool",
                f"{counted(_largest(facts['pool_images']), 'image')}, {counted(_largest(facts['pool_texts']), 'text')}",
            ),
            ("Ties", str(facts["ties"])),
        ]
    )
