"""The report of a run: `report.html` in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from domainvl.evaluation.files import whole_file
from domainvl.report.classes import curves, per_class
from domainvl.report.datacard import data_card
from domainvl.report.decisions import calibration, decisions
from domainvl.report.findings import findings
from domainvl.report.headline import headline, title
from domainvl.report.html import Markup, join
from domainvl.report.learning import learning
from domainvl.report.made import made
from domainvl.report.mistakes import mistakes, worst
from domainvl.report.page import contents, footer, page
from domainvl.report.pictures import Seen, examples, maps, shown, thumbnails
from domainvl.report.record import Record
from domainvl.report.retrieval import grounding, retrieval
from domainvl.report.stains import stains

_TITLES = {
    "result": "Result",
    "data": "Data",
    "learning": "Learning",
    "findings": "Protocol",
    "classes": "Classes",
    "curves": "Curves",
    "retrieval": "Retrieval",
    "grounding": "Grounding",
    "stains": "Other stains",
    "decisions": "Decisions",
    "calibration": "Calibration",
    "mistakes": "Mistakes",
    "maps": "Pictures",
    "made": "How it was made",
}


def pictured(record: Record) -> set[str]:
    """Ids of the images that a page would show."""
    return {one.image for one in worst(record)} | {image for ids in examples(record).values() for image in ids}


def write_report(folder: Path, seen: Mapping[str, Seen] | None = None) -> Path:
    """Write the page of a finished run from what lies in its folder; no model is loaded.

    Args:
        folder: The run.
        seen: Its images by id, where they may be shown; None for a page without images.
    """
    record, seen = Record.read(folder), seen or {}
    sections: dict[str, Markup | None] = {
        "result": headline(record),
        "data": data_card(record),
        "learning": learning(record),
        "retrieval": retrieval(record),
        "grounding": grounding(record),
        "findings": findings(record),
        "stains": stains(record),
        "classes": per_class(record),
        "curves": curves(record),
        "decisions": decisions(record),
        "calibration": calibration(record),
        "mistakes": mistakes(record, thumbnails(seen)),
        "maps": maps(record, seen) or shown(record, seen),
        "made": made(record),
    }
    present = {key: part for key, part in sections.items() if part is not None}
    links = contents([(key, _TITLES[key]) for key in present])
    parts = [title(record), links, join(present.values()), footer(pictures=bool(seen))]
    with whole_file(record.run.report) as file:
        file.write(page(record.name, parts))
    return record.run.report
