"""A table with one row per slide: where it lies, whose it is, what it shows, and how large its pixels are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_modules.readers.boxes import placed
from data_modules.readers.generic import ImageTable
from data_modules.readers.table import Table
from domainvl.data.paths import inside

_MPP = "mpp"


@dataclass(frozen=True)
class SlideTable(ImageTable):
    """A table with one row per slide; as `ImageTable`, which says what columns there can be.

    Attributes:
        table: The file, below the root or anywhere.
        image_column: Slides, relative to the root; `slide` or `image` when None.
        mpp_column: Microns per pixel, where the table knows better than a file; `mpp` where there is one when None.
    """

    table: str = "slides.csv"
    mpp_column: str | None = None

    def resolutions(self, root: Path) -> dict[str, float]:
        """Microns per pixel by slide, of the rows that state any."""
        table = Table(placed(root, self.table))
        name = self._mpp(table)
        found: dict[str, float] = {}
        if name is None:
            return found
        for number, (path, cell) in table.rows(self.image_name(table), name):
            if cell:
                try:
                    found[inside(root, path, f"{table.path.name}: row {number}", "slide")] = float(cell)
                except ValueError as error:
                    raise ValueError(
                        f"table {table.path.name}: row {number}: {name} is no number; give microns per pixel"
                    ) from error
        return found

    def _columns(self, table: Table) -> dict[str, str]:
        columns = super()._columns(table)
        name = self._mpp(table)
        return columns if name is None else {**columns, _MPP: name}

    def image_name(self, table: Table) -> str:
        """See `ImageTable.image_name`."""
        return self.image_column or ("slide" if "slide" in table.columns else "image")

    def _mpp(self, table: Table) -> str | None:
        if self.mpp_column is not None:
            table.require(self.mpp_column)
            return self.mpp_column
        return _MPP if _MPP in table.columns else None
