"""MHIST, as Dartmouth ships it: colorectal polyps, hyperplastic or sessile serrated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_modules.readers.layout import Layout, Rows, present
from data_modules.readers.table import Table
from domainvl.data.manifest import Manifest, Record

_CLASSES = {"HP": "hyperplastic polyp", "SSA": "sessile serrated adenoma"}


@dataclass(frozen=True)
class Mhist(Layout):
    """`annotations.csv` and `images/*.png`. What is not `train` in the column `Partition` is the test split.

    A tenth of the training images (by `split`) is the validation split; patients are not published.
    """

    def read(self, root: Path) -> Manifest:
        """The table's rows as records."""
        table = Table(root / "annotations.csv")
        classes = tuple(_CLASSES.values())
        rows = Rows()
        for number, (name, label, partition) in table.rows("Image Name", "Majority Vote Label", "Partition"):
            path = f"images/{name}"
            if label not in _CLASSES:
                rows.reject(number, path, f"Majority Vote Label: {label[:20]!r} is neither HP nor SSA")
                continue
            answer = present(classes, [_CLASSES[label]])
            rows.add(Record(name, path, name, answer, "train" if partition == "train" else "test", row=number))
        return Manifest(
            name="MHIST",
            root=root,
            records=tuple(rows.records),
            classes=classes,
            multilabel=False,
            rejected=tuple(rows.rejected),
            carve=0.1,
            licence="research use; the form of bmirds.github.io/MHIST",
            warnings=("no patient is known, so every image counts as a patient of its own",),
        )
