"""What a data set holds, read once and never changed: one record per image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from domainvl.data.boxes import Box
from domainvl.data.labels import Label
from domainvl.data.names import hint, listing
from domainvl.data.rejects import Reject

Split = Literal["train", "validate", "test"]
SPLITS: tuple[Split, ...] = ("train", "validate", "test")

_SPELLINGS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "validate": "validate",
    "validation": "validate",
    "valid": "validate",
    "val": "validate",
    "dev": "validate",
    "test": "test",
    "testing": "test",
}


def parse_split(cell: str) -> Split:
    """Read the name of a split in any usual spelling."""
    try:
        return _SPELLINGS[cell.strip().lower()]
    except KeyError:
        raise ValueError(f"{cell.strip()[:20]!r} is no split; use train, validate or test") from None


@dataclass(frozen=True, slots=True)
class Record:
    """One image. Patient and text stay out of the repr, because a repr ends up in logs.

    Attributes:
        id: Name of the image that is unique in the data set; what predictions are listed by.
        path: File, relative to the root, with forward slashes.
        patient: Whom it shows; the unit that splits, shots and bootstraps are drawn by.
        labels: One per class, or empty when nothing is known. A single-label record has exactly one positive.
        split: Where the data set's own split puts it; None when it has none.
        study: The examination that the image belongs to.
        view: Projection, as the data set spells it.
        row: Line in the table, from 2; 0 where there is no table.
        report: Report file, relative to `Manifest.reports`.
        findings: Findings section of the report.
        impression: Impression section of the report.
        texts: Further texts by name, for example of a column `caption`.
        boxes: Phrases and where in the picture they are true.
        part: Which part of the file, as its decoder counts (a window's left, top, width, height); empty for all of it.
        organs: Label map of its organs, relative to the root; a file, or a folder of masks.
    """

    id: str
    path: str
    patient: str = field(repr=False)
    labels: tuple[Label, ...] = ()
    split: Split | None = None
    study: str = field(default="", repr=False)
    view: str = ""
    row: int = 0
    report: str = field(default="", repr=False)
    findings: str = field(default="", repr=False)
    impression: str = field(default="", repr=False)
    texts: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    boxes: tuple[Box, ...] = ()
    part: tuple[int, ...] = ()
    organs: str = ""

    @property
    def key(self) -> str:
        """Which image it is: the file, and which part of it."""
        return f"{self.path}#{','.join(map(str, self.part))}" if self.part else self.path


@dataclass(frozen=True)
class Manifest:
    """A data set.

    Attributes:
        name: What to call it.
        root: Folder that record paths are relative to.
        records: The images that can be used.
        classes: Class names, in the order of `Record.labels`.
        multilabel: Whether an image may show several classes at once.
        rejected: Rows of the table that cannot be used.
        carve: Share of the training patients that become the validation split when the data set has none.
        reports: Folder that report paths are relative to.
        licence: One line on terms of use.
        warnings: What a user has to know about the splits or labels.
    """

    name: str
    root: Path
    records: tuple[Record, ...] = field(repr=False)
    classes: tuple[str, ...] = ()
    multilabel: bool = True
    rejected: tuple[Reject, ...] = field(default=(), repr=False)
    carve: float = 0.0
    reports: Path | None = None
    licence: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Rows that were read, rejected ones included."""
        return len(self.records) + len(self.rejected)

    def positions(self, split: Split) -> list[int]:
        """Positions of the records of one split."""
        return [index for index, record in enumerate(self.records) if record.split == split]

    def counts(self) -> dict[str, int]:
        """Records per split."""
        found: Counter[str] = Counter(record.split or "without split" for record in self.records)
        return {name: found[name] for name in (*SPLITS, "without split") if found[name]}

    def with_classes(self, wanted: Sequence[str]) -> Manifest:
        """Only these classes, in this order. Single-label records of other classes are left out."""
        for name in wanted:
            if name not in self.classes:
                raise ValueError(
                    f"{self.name}: unknown class {name!r}{hint(name, self.classes)} "
                    f"The classes are: {listing(self.classes)}"
                )
        repeated = [name for name, count in Counter(wanted).items() if count > 1]
        if repeated:
            raise ValueError(f"{self.name}: class {repeated[0]!r} is asked for twice")
        if tuple(wanted) == self.classes:
            return self
        columns = [self.classes.index(name) for name in wanted]

        def chosen(records: Iterable[Record]) -> Iterable[Record]:
            shared: dict[tuple[Label, ...], tuple[Label, ...]] = {}
            for record in records:
                if record.labels:
                    labels = tuple(record.labels[column] for column in columns)
                    record = replace(record, labels=shared.setdefault(labels, labels))
                if self.multilabel or not record.labels or Label.POSITIVE in record.labels:
                    yield record

        return replace(self, records=tuple(chosen(self.records)), classes=tuple(wanted))

    def where(self, keep: Callable[[Record], bool]) -> Manifest:
        """Only the records for which `keep` is true."""
        return replace(self, records=tuple(record for record in self.records if keep(record)))

    def without_duplicates(self) -> Manifest:
        """One record per image: a repeated row is rejected, a row that contradicts an earlier one is an error."""
        first: dict[str, Record] = {}
        rejected = list(self.rejected)
        for record in self.records:
            known = first.setdefault(record.key, record)
            if known is record:
                continue
            same = replace(record, row=known.row, id=known.id) == known
            if not same:
                raise ValueError(
                    f"{self.name}: rows {known.row} and {record.row} describe the same image and differ in "
                    "patient, split, label or report; keep the right one"
                )
            rejected.append(Reject(record.row, record.key, f"repeats row {known.row}"))
        if len(first) == len(self.records):
            return self
        return replace(self, records=tuple(first.values()), rejected=tuple(rejected))
