"""A layout: how one data set lies on disk. From a root folder to a manifest, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from domainvl.data.labels import Label, parse_label
from domainvl.data.manifest import Manifest, Record
from domainvl.data.rejects import Reject

CHEXPERT_CLASSES = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""The 14 labels of CheXpert and MIMIC-CXR."""


class Layout(ABC):
    """Base of all layouts. Arguments of a constructor are choices within a data set, never its location."""

    @abstractmethod
    def read(self, root: Path) -> Manifest:
        """The data set below `root`, as it was downloaded."""


class LabelReader:
    """Cells to labels, with one shared tuple per combination: a large table has few of them."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._known: dict[tuple[str, ...], tuple[Label, ...]] = {}

    def __call__(self, cells: Sequence[str]) -> tuple[Label, ...]:
        """Labels of one row; ValueError naming the class of a cell that is no label."""
        key = tuple(cells)
        labels = self._known.get(key)
        if labels is None:
            read = []
            for name, cell in zip(self.classes, key, strict=True):
                try:
                    read.append(parse_label(cell))
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error
            labels = self._known[key] = tuple(read)
        return labels


def present(classes: Sequence[str], names: Iterable[str]) -> tuple[Label, ...]:
    """Labels of a data set that lists what there is: the named classes positive, the others negative."""
    there = set(names)
    return tuple(Label.POSITIVE if name in there else Label.NEGATIVE for name in classes)


class Rows:
    """Collects records and rejected rows while a table is read."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.rejected: list[Reject] = []

    def add(self, record: Record) -> None:
        """A row that can be used."""
        self.records.append(record)

    def reject(self, row: int, path: str, reason: str) -> None:
        """A row that cannot."""
        self.rejected.append(Reject(row, path, reason))


def frequent(counts: Counter[str], least: int, name: str) -> tuple[str, ...]:
    """The names that occur at least so often, most frequent first."""
    classes = tuple(
        one for one, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if count >= least
    )
    if not classes:
        raise ValueError(f"{name}: no finding occurs {least} times; lower `least`, or check that the data set is whole")
    return classes
