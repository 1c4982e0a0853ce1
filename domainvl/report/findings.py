"""A test as a named protocol of finding classification counts it."""

from __future__ import annotations

from domainvl.report.html import Markup, lead, section, tag
from domainvl.report.names import MODELS, counted, metric, number, span
from domainvl.report.record import Record, as_interval
from domainvl.report.table import Cell, table

_RULES = {"f1": "F1 is highest", "youden": "sensitivity and specificity add up to most"}


def findings(record: Record) -> Markup | None:
    """Means and thresholds under the protocol; None for a run that names none."""
    found = record.metrics.get("findings")
    if not found:
        return None
    models = found["models"]
    said = f"{found['protocol']}: {counted(found['rows'], 'row')} of {counted(found['patients'], 'patient')}. Tuned F1 "
    said += f"decides at thresholds where {_RULES[found['rule']]} on the validation split, which shares no patient."
    lines = []
    for name in next(iter(models.values()))["metrics"]:
        words = metric(name)
        values = [as_interval(model["metrics"][name]) for model in models.values()]
        lines.append([Cell(words[0], note=words[1]), *(Cell(number(v.value), v.value, span(v)) for v in values)])
    heads = [MODELS[model] for model in models]
    means = table(["Metric", *heads], lines, label="Metrics under the protocol")
    cuts = [
        [Cell(name), *(Cell(number(model["thresholds"][name]), model["thresholds"][name]) for model in models.values())]
        for name in next(iter(models.values()))["thresholds"]
    ]
    thresholds = table(["Finding", *heads], cuts, label="Thresholds", sortable=True)
    folded = tag("details", tag("summary", f"{len(cuts)} thresholds"), thresholds)
    return section("findings", "Protocol", lead(said), means, folded)
