"""What data the numbers are made on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from domainvl.report.html import Markup, join, lead, rows, section, tag
from domainvl.report.names import counted, share
from domainvl.report.record import Record
from domainvl.report.table import Cell, table, tiles

_SPLITS = {"train": "Training", "validate": "Validation", "test": "Test"}
_KINDS = {
    "patients": "patients",
    "identical_images": "identical images",
    "similar_images": "similar images",
    "identical_texts": "identical texts",
    "similar_texts": "similar texts",
}
_SIZES = ("patients", "images")
_REASONS = 12


def data_card(record: Record) -> Markup:
    """Sizes, splits, rejects, leakage."""
    data = record.facts.get("data") or {}
    sizes, classes = record.metrics["n"], len(record.metrics["per_class"])
    shown = [(f"{count:,}", f"{what} measured") for what, count in sizes.items()]
    shown += [(f"{classes:,}", "classes")] if classes else []
    shots = record.setting("data", "shots")
    shown += [(f"{shots}", "training patients per class")] if shots else []
    return section(
        "data",
        "Data",
        lead("Patients decide the split: no patient is in two of them. Intervals are over patients, not images."),
        tiles(shown),
        rows(
            [
                (
                    "Data set",
                    " / ".join(part for part in (record.class_name("data"), data.get("name")) if part) or None,
                ),
                ("Terms of use", data.get("licence") or None),
                ("Labels", _labels(data)),
                ("Training and test places", _apart(record.metrics.get("split_facts") or {})),
            ]
        ),
        _splits(data.get("splits") or {}),
        _rejects(record, data),
        _leakage(record),
    )


def _labels(data: Mapping[str, Any]) -> str | None:
    if "multilabel" not in data or not data.get("classes"):
        return None
    return "several per image, or none" if data["multilabel"] else "one per image"


def _apart(facts: Mapping[str, Any]) -> str | None:
    """How far test images are from training images, where images have places."""
    if "nearest_train_test_m" not in facts:
        return None
    nearest = facts["nearest_train_test_m"]
    beyond = f"more than {facts['looked_within_m'] / 1000:,.0f} km"
    said = (
        f"{beyond if nearest is None else f'at least {nearest:,.0f} m'} apart, edge to edge; split: {facts['method']}"
    )
    if facts["buffer_m"] is None:
        return f"{said}, no buffer"
    kept = f"buffer {facts['buffer_m']:,.0f} m, {facts['left_out']:,} left out"
    return f"{said} by cells of {facts['cell_m']:,.0f} m, {kept}"


def _splits(splits: Mapping[str, Any]) -> Markup | None:
    if not splits:
        return None
    lines = [[Cell(name.capitalize()), *(_count(found[name]) for found in splits.values())] for name in _SIZES]
    for name in next(iter(splits.values())).get("positives") or {}:
        lines.append([Cell(name, note="positive"), *(_count(found["positives"][name]) for found in splits.values())])
    heads = ["As used", *(_SPLITS.get(split, split) for split in splits)]
    return join([tag("h3", "Splits"), table(heads, lines, label="Patients, images and positives by split")])


def _count(count: int) -> Cell:
    return Cell(f"{count:,}", count)


def _rejects(record: Record, data: Mapping[str, Any]) -> Markup:
    count = record.rejects.total()
    heading = tag("h3", "Rows left out")
    if not count:
        return join([heading, tag("p", "None: every row and every file could be read.")])
    of = data.get("rows")
    total = f"{counted(count, 'row')} of {of:,} ({share(count, of)})" if of else counted(count, "row")
    most = record.rejects.most_common(_REASONS)
    lines = [[Cell(reason), Cell(f"{times:,}", times)] for reason, times in most]
    rest = len(record.rejects) - len(most)
    more = tag("p", f"And {counted(rest, 'reason')} more.") if rest else None
    said = tag("p", f"{total} were left out; rejects.csv names each.")
    return join([heading, said, table(["Reason", "Rows"], lines, label="Rows left out, by reason"), more])


def _leakage(record: Record) -> Markup:
    leakage = record.metrics.get("leakage") or record.facts.get("leakage")
    heading = tag("h3", "Leakage check")
    if not leakage:
        return join([heading, tag("p", "Not recorded: this run compared no splits with each other.")])
    overlaps = {pair: found for pair, found in leakage.items() if isinstance(found, Mapping)}
    kinds = [kind for kind in _KINDS if any(found.get(kind) is not None for found in overlaps.values())]
    leaks = any(
        (found.get(kind) or {}).get("count") for found in overlaps.values() for kind in kinds if "texts" not in kind
    )
    lines = []
    for pair, found in overlaps.items():
        first, _, second = pair.partition("/")
        name = f"{_SPLITS.get(second, second)} against {_SPLITS.get(first, first).lower()}"
        lines.append([Cell(name), *(_shared(found.get(kind)) for kind in kinds)])
    unseen = "" if any("images" in kind for kind in kinds) else " Images were not compared (volumes, or not in memory)."
    verdict = "LEAKAGE: splits share patients or images." if leaks else "No patient or image is in two splits."
    equal = " Equal texts are usual, for example in reports of healthy people, and only counted."
    texts = equal if any("texts" in kind for kind in kinds) else ""
    heads = ["In both", *(_KINDS[kind] for kind in kinds)]
    checked = "No patient is in two splits." if unseen and not leaks else verdict
    crops = " Cropped copies were not looked for." if not unseen and not leakage.get("crops") else ""
    said = tag("p", f"{checked}{unseen}{crops}{texts}", class_="alarm" if leaks else None)
    return join([heading, said, table(heads, lines, label="What splits share")])


def _shared(found: Mapping[str, Any] | None) -> Cell:
    if found is None:
        return Cell("not checked")
    return Cell(f"{found['count']:,}", found["count"], f"of {found['of']:,}")
