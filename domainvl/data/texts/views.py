"""Which texts of a report go with an image: configuration, what a record offers, and what is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from domainvl.data.manifest import Record
from domainvl.data.texts.reports import Report, sentences, split_report

SECTIONS = ("impression", "findings", "report")
"""Views that come from a report, in the order in which evaluation prefers them."""

_KEPT = 20_000


@dataclass(frozen=True)
class TextViews:
    """The texts of an image and how they are drawn.

    A view is `findings`, `impression`, `report` (both, in this order) or the name of a further text of the data set,
    such as a column `caption`. A report without sections is all findings.

    Attributes:
        views: How often each view is drawn, relative to the others that the image has; 0 for never.
        sentences: Draw one random sentence of the view instead of all of it (as GLoRIA does).
        extra: Views that every batch carries besides, whole; an empty text where an image has none.
        one_per_study: Train on one image per study and epoch, so that no two images of a batch share a report.
        every: Evaluate with every text of an image, as captioned sets with five of them ask for, and not with the first
            view alone.
    """

    views: dict[str, float] = field(default_factory=lambda: {"findings": 0.5, "impression": 0.5})
    sentences: bool = False
    extra: list[str] = field(default_factory=list)
    one_per_study: bool = True
    every: bool = False

    def __post_init__(self) -> None:
        wrong = {name: weight for name, weight in self.views.items() if not 0 <= weight < float("inf")}
        if wrong or not any(self.views.values()):
            raise ValueError(
                f"TextViews: views is {self.views}; give every view a weight, 0 for never, and at least one more than 0"
            )
        if len(set(self.extra)) < len(self.extra):
            raise ValueError(f"TextViews: extra is {self.extra}; name every view once")

    @property
    def drawn(self) -> list[str]:
        """The views that `text` is taken of, as evaluation prefers them: those of the report first."""
        used = [name for name, weight in self.views.items() if weight]
        return [name for name in SECTIONS if name in used] + [name for name in used if name not in SECTIONS]

    @property
    def names(self) -> list[str]:
        """All views that are read."""
        return list(dict.fromkeys([*self.drawn, *self.extra]))

    def whole(self, texts: Mapping[str, str]) -> str:
        """The text of the first view that there is; empty where there is none."""
        return next((texts[name] for name in self.drawn if texts[name]), "")

    def asked(self, texts: Mapping[str, str]) -> list[str]:
        """The texts that an evaluation asks with: the first that there is, or all of them."""
        there = [texts[name] for name in self.drawn if texts[name]]
        return there if self.every else there[:1]

    def draw(self, texts: Mapping[str, str], seed: int, epoch: int, index: int) -> str:
        """A text for one image in one epoch; it depends on the numbers alone, so a resumed run draws the same.

        Args:
            texts: What there is, by view.
            seed: Seed of the run.
            epoch: Epoch that is running.
            index: Position of the record in the manifest.
        """
        there = [name for name in self.drawn if texts[name]]
        if not there:
            return ""
        generator = np.random.default_rng((seed, epoch, index))
        shares = np.cumsum([self.views[name] for name in there])
        view = there[int(np.searchsorted(shares, generator.random() * shares[-1], side="right"))]
        if not self.sentences:
            return texts[view]
        parts = sentences(texts[view])
        return parts[int(generator.integers(len(parts)))]


class TextReader:
    """The texts of records. Report files are read when they are needed, and the first of them kept.

    Args:
        views: Which.
        reports: Folder that report files are relative to.
    """

    def __init__(self, views: TextViews, reports: Path | None) -> None:
        self.views = views
        self.reports = reports
        self._kept: dict[str, Report] = {}

    def __call__(self, record: Record) -> dict[str, str]:
        """Text by view, empty where there is none."""
        findings, impression = record.findings, record.impression
        if record.report and not findings and not impression and any(name in SECTIONS for name in self.views.names):
            report = self._report(record.report)
            findings, impression = report.described, report.impression
        known = {
            "findings": findings,
            "impression": impression,
            "report": f"{findings} {impression}".strip(),
            **record.texts,
        }
        return {name: known.get(name, "") for name in self.views.names}

    def _report(self, path: str) -> Report:
        found = self._kept.get(path)
        if found is None:
            found = self._read(path)
            if len(self._kept) < _KEPT:
                self._kept[path] = found
        return found

    def _read(self, path: str) -> Report:
        """A report that is missing or no text is one without sections; its image is listed as one without text."""
        if self.reports is None:
            return Report()
        try:
            return split_report((self.reports / path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            return Report()


def missing(views: TextViews, records: Sequence[Record]) -> str:
    """What to say of records without any text."""
    files = " (or the report file cannot be read)" if any(record.report for record in records) else ""
    return f"no text in {', '.join(views.drawn)}{files}"
