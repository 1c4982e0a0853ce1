"""A layout whose reports are cut to what an H&E slide can show."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from data_modules.readers.layout import Layout
from domainvl.data.manifest import Manifest, Record
from domainvl.data.texts.sentence_filter import Audit, SentenceRules, filtered
from domainvl.data.texts.views import TextReader, TextViews


@dataclass(frozen=True)
class VisibleSentences(Layout):
    """Another layout, with texts that keep only sentences about what is in the picture.

    How many sentences of each label were dropped is told once, when the data set is read.

    Attributes:
        layout: Where the data are.
        rules: File with the rules (`domainvl.data.texts.sentence_filter`).
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

        read = TextReader(TextViews({"findings": 1.0, "impression": 1.0}), manifest.reports)

        def cut(record: Record) -> Record:
            sections = read(record)
            texts = {name: visible(text) for name, text in record.texts.items()}
            findings, impression = visible(sections["findings"]), visible(sections["impression"])
            return replace(record, report="", findings=findings, impression=impression, texts=texts)

        records = tuple(cut(record) for record in manifest.records)
        warnings.warn(f"{manifest.name}: sentences by the rules {rules.name} {rules.version}:\n{audit}", stacklevel=2)
        return replace(manifest, records=records)
