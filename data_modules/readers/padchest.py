"""PadChest (BIMCV), as it is downloaded: numbered folders of 16-bit PNGs and one table."""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from data_modules.readers.layout import Layout, Rows, frequent, present
from data_modules.readers.table import Table, find
from domainvl.data.manifest import Manifest, Record
from domainvl.data.paths import inside
from domainvl.data.texts.reports import clean

_COLUMNS = ("ImageID", "ImageDir", "StudyID", "PatientID", "Projection", "MethodLabel", "Report", "Labels")
_NOT_FINDINGS = frozenset({"normal", "exclude", "unchanged", "suboptimal study", ""})
_BY_HAND = "physician"


@dataclass(frozen=True)
class PadChest(Layout):
    """`PADCHEST_chest_x_ray_images_labels_160K_*.csv` and `<ImageDir>/<ImageID>`, or all images in one folder.

    Classes are the labels that occur often enough; what an image is not labelled with counts as absent. Images that the
    authors marked `exclude` are left out. It has no splits: patients are split by `split`.

    Attributes:
        least: Number of images that a label must occur in to be a class.
        by_hand: Use only the 27 % that physicians labelled.
    """

    least: int = 100
    by_hand: bool = False

    def read(self, root: Path) -> Manifest:
        """The table's rows as records."""
        table = Table(find(root, ["PADCHEST_chest_x_ray_images_labels_160K*.csv"], "PadChest"))
        rows = Rows()
        found: list[tuple[int, list[str], frozenset[str]]] = []
        excluded = 0
        numbered = True
        for number, cells in table.rows(*_COLUMNS):
            name, folder, _, patient, _, method, _, labels = cells
            if not found:
                numbered = (root / folder / name).exists() or not (root / name).exists()
            try:
                terms = _terms(labels)
            except ValueError as error:
                rows.reject(number, name, str(error))
                continue
            if "exclude" in terms:
                excluded += 1
            elif not patient:
                rows.reject(number, name, "PatientID: the patient is missing")
            elif not self.by_hand or method.lower() == _BY_HAND:
                found.append((number, cells, terms))
        counts = Counter(term for _, _, terms in found for term in terms - _NOT_FINDINGS)
        classes = frequent(counts, self.least, "PadChest")
        for number, (name, folder, study, patient, view, _, report, _), terms in found:
            path = inside(root, f"{folder}/{name}" if numbered else name, f"{table.path.name}: row {number}")
            there = present(classes, terms)
            rows.add(Record(name, path, patient, there, None, study, view, number, findings=clean(report)))
        return Manifest(
            name="PadChest",
            root=root,
            records=tuple(rows.records),
            classes=classes,
            rejected=tuple(rows.rejected),
            licence="BIMCV PadChest research use agreement; cite Bustos et al. 2020",
            warnings=(f"{excluded} images that the authors marked 'exclude' are left out",) if excluded else (),
        )


def _terms(cell: str) -> frozenset[str]:
    """The label cell, a list in Python's spelling with odd spaces."""
    try:
        terms = ast.literal_eval(cell)
        return frozenset(term.strip() for term in terms)
    except (ValueError, SyntaxError, TypeError, AttributeError) as error:
        kind = "NaN" if cell.lower() in ("", "nan") else "the cell"
        raise ValueError(f"Labels: {kind} is no list of labels") from error
