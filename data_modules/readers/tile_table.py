"""Labelled tiles of scenes: a table with one row per tile that says which window of which raster it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_modules.readers.boxes import placed
from data_modules.readers.generic import ImageTable
from data_modules.readers.layout import Layout
from data_modules.readers.table import Table
from domainvl.data.manifest import Manifest, Record
from domainvl.data.rejects import Reject

WINDOW = ("left", "top", "width", "height")
"""Columns of the window, in pixels of the raster."""


@dataclass(frozen=True)
class TileTable(Layout):
    """A CSV with the columns image, left, top, width and height, and labels.

    Attributes:
        table: The CSV, below the root or anywhere.
        class_column: The column that holds a tile's only class; `class` or `label` where None and there is one.
        label_columns: One column per class instead.
        split_column: Splits; tiles are split by where they lie when there is none.
        date_column: When the scene was seen.
        text_columns: Texts, each a view of its column's name.
    """

    table: str = "tiles.csv"
    class_column: str | None = None
    label_columns: Sequence[str] | None = None
    split_column: str | None = None
    date_column: str | None = None
    text_columns: Sequence[str] | None = None

    def read(self, root: Path) -> Manifest:
        """The table's rows as records with windows."""
        date = self.date_column
        rows = Table(placed(root, self.table))
        rows.require(*WINDOW)
        if date is None and "date" in rows.columns:
            date = "date"
        images = ImageTable(
            table=self.table,
            class_column=self.class_column,
            label_columns=self.label_columns,
            split_column=self.split_column,
            view_column=date,
            text_columns=self.text_columns,
        )
        manifest = images.read(root)
        windows = dict(rows.rows(*WINDOW))
        records: list[Record] = []
        rejected = list(manifest.rejected)
        for record in manifest.records:
            window = _window(windows[record.row])
            if window is None:
                shown = ", ".join(windows[record.row])[:40]
                rejected.append(Reject(record.row, record.path, f"{shown!r} is no window of whole pixels above 0"))
                continue
            records.append(replace(record, id=f"{record.path}#{','.join(map(str, window))}", part=window))
        return replace(manifest, records=tuple(records), rejected=tuple(rejected), warnings=())


def _window(cells: Sequence[str]) -> tuple[int, int, int, int] | None:
    try:
        left, top, width, height = (int(cell) for cell in cells)
    except ValueError:
        return None
    return (left, top, width, height) if min(left, top) >= 0 and min(width, height) > 0 else None
