"""The top of the page: how good, how sure, compared with what."""

from __future__ import annotations

from domainvl.evaluation.bootstrap import Interval
from domainvl.report.html import Markup, div, join, lead, section, tag
from domainvl.report.names import LOWER_IS_BETTER, MODELS, counted, digits, metric, number, span
from domainvl.report.page import toggle
from domainvl.report.record import Record, as_interval
from domainvl.report.svg import strip
from domainvl.report.table import Cell, table

_SPLITS = {"validate": "validation"}
_MAIN = (
    "mean_recall",
    "i2t_r5",
    "t2i_r5",
    "cnr_signed",
    "pointing",
    "auroc_macro",
    "auprc_macro",
    "accuracy",
    "accuracy_balanced",
    "f1_macro",
    "calibration_error",
)
"""What stands in the first table; the rest is folded."""


def title(record: Record) -> Markup:
    """Name of the run and what it was."""
    return tag("header", div("name", tag("h1", record.name), tag("p", _method(record))), toggle(), class_="top")


def headline(record: Record) -> Markup:
    """The number that counts, beside zero-shot, in a sentence, with all others below."""
    name = record.headline
    values = {model: as_interval(record.metrics[model][name]) for model in record.models}
    change = as_interval((record.metrics.get("difference") or {}).get(name))
    shown = [_big(MODELS[model], values[model], name, model) for model in reversed(record.models)]
    if change.value is not None:
        shown.append(_big("difference", change, name, "change", signed=True))
    words = metric(name)
    return section(
        "result",
        words[0],
        div("bigs", *shown),
        lead(_sentence(record, name, values, change)),
        _metrics(record, [one for one in record.metrics["zero_shot"] if one in _MAIN], "Main metrics"),
        _others(record),
        _notes(record),
    )


def _method(record: Record) -> str:
    adapter = record.method
    name = record.setting("model", "backbone", "name") or record.setting("model", "backbone", "base", "name")
    backbone = name if isinstance(name, str) else record.class_name("model", "backbone")
    shots = record.setting("data", "shots")
    if len(record.models) == 1:
        method = f"{backbone} as it is (zero-shot)" if backbone else "zero-shot"
    else:
        method = " on ".join(part for part in (adapter or "a saved adapter", backbone) if part)
    learned = f", {counted(shots, 'patient')} per class" if shots and adapter else ""
    return f"{method}{learned}; measured on the {_SPLITS.get(record.metrics['split'], record.metrics['split'])} split"


def _big(title: str, value: Interval, name: str, kind: str, signed: bool = False) -> Markup:
    places = digits(name)
    return div(
        f"big {kind}",
        tag("span", title, class_="of"),
        tag("b", number(value.value, places, signed)),
        tag("span", span(value, places, signed) or "no interval", class_="span"),
    )


def _sentence(record: Record, name: str, values: dict[str, Interval], change: Interval) -> str:
    last = record.models[-1]
    best = values[last].value
    parts = []
    if best is not None and name == "auroc_macro":
        first = values["zero_shot"].value
        beside = f", the untouched model {100 * first:.0f}" if last == "adapted" and first is not None else ""
        who = "the adapted model" if last == "adapted" else "the untouched model"
        parts.append(
            f"Shown one image with a finding and one without, {who} ranks them rightly {100 * best:.0f} times in "
            f"100{beside}; mean over the classes."
        )
    else:
        means = metric(name)[1]
        parts.append(f"{means[:1].upper()}{means[1:]}.")
    if change.low is not None and change.high is not None:
        better = change.high < 0 if name.endswith(LOWER_IS_BETTER) else change.low > 0
        worse = change.low > 0 if name.endswith(LOWER_IS_BETTER) else change.high < 0
        verdict = "is better than" if better else "is worse than" if worse else "cannot be told from"
        parts.append(f"On these patients the adapted model {verdict} zero-shot (95 % interval of the difference).")
    sizes = record.metrics["n"]
    resamples = record.metrics["bootstrap"]["resamples"]
    drawn = f" Intervals: 95 %, {resamples:,} resamples of patients." if resamples else ""
    parts.append(f"{counted(sizes['images'], 'image')} of {counted(sizes['patients'], 'patient')}.{drawn}")
    return " ".join(parts)


def _others(record: Record) -> Markup | None:
    """The rest of a long list, folded."""
    names = [name for name in record.metrics["zero_shot"] if name not in _MAIN]
    if not names:
        return None
    return tag("details", tag("summary", f"{len(names)} more metrics"), _metrics(record, names, "Other metrics"))


def _metrics(record: Record, names: list[str], label: str) -> Markup:
    adapted = len(record.models) == 2
    heads = ["Metric", *(MODELS[model] for model in record.models), *(["difference"] if adapted else []), "from 0 to 1"]
    lines = []
    for name in names:
        words, places = metric(name), digits(name)
        cells = [Cell(words[0], note=words[1])]
        values = [as_interval(record.metrics["zero_shot"][name])]
        if adapted:
            values.append(as_interval(record.metrics["adapted"][name]))
        cells += [Cell(number(one.value, places), one.value, span(one, places)) for one in values]
        if adapted:
            change = as_interval(record.metrics["difference"][name])
            cells.append(Cell(number(change.value, places, True), change.value, span(change, places, True)))
        cells.append(Cell(_strip(record.models, values, name)))
        lines.append(cells)
    return table(heads, lines, label=label, names=(0, len(heads) - 1))


def _strip(models: list[str], values: list[Interval], name: str) -> Markup:
    """Both models on a line from 0 to 1, for metrics that are shares."""
    if name.endswith("median_rank") or name.startswith("cnr"):
        return Markup("")
    shown = [(m, v.value, v.low, v.high) for m, v in zip(models, values, strict=True) if v.value is not None]
    return strip(shown, 0.0, 1.0) if shown else Markup("")


def _notes(record: Record) -> Markup:
    notes = list(record.metrics["notes"])
    settings = record.setting("data", "init_args") or {}
    if "root" in settings and settings["root"] is None:
        first = "Made on domainvl's procedural sample images: the numbers show that the method works, and nothing else."
        notes.insert(0, first)
    return join([tag("h3", "Read this with the numbers"), tag("ul", *(tag("li", note) for note in notes))])
