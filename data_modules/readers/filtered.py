"""A layout whose reports are cut to what an H&E slide can show."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from data_modules.readers.layout import Layout
from domainvl.data.manifest import Manifest, Record
from domainvl.data.reports import split_report
from domainvl.data.sentence_filter import Audit, SentenceRules, filtered


@dataclass(frozen=True)
class VisibleSentences(Layout):
    """Another layout, with texts that keep only sentences about what is in the picture.

    How many sentences of each label were dropped is told once, when the data set is read.

    Attributes:
        layout: Where the data are.
        rules: File with the rules (`domainvl.data.sentence_filter`).
    """

    layout: Layout
    rules: str = "builtin:pathology"

    def read(self, root: Path) -> Manifest:
        """The layout's records, their texts filtered."""
        rules = SentenceRules.read(self.rules)
        audit = Audit(rules.keep)

        def visible(text: str) -> str:
            return filtered(text, rules, audit)

        manifest = self.layout.read(root)

        def cut(record: Record) -> Record:
            findings, impression = record.findings, record.impression
            if record.report and not findings and not impression and manifest.reports is not None:
                report = split_report((manifest.reports / record.report).read_text(encoding="utf-8"))
                findings, impression = report.described, report.impression
            texts = {name: visible(text) for name, text in record.texts.items()}
            return replace(record, report="", findings=visible(findings), impression=visible(impression), texts=texts)

        records = tuple(cut(record) for record in manifest.records)
        warnings.warn(f"{manifest.name}: sentences by the rules {rules.name} {rules.version}:\n{audit}", stacklevel=2)
        return replace(manifest, records=records)
