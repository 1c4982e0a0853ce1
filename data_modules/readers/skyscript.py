"""SkyScript: tables of pictures with two captions each, made from OpenStreetMap's tags.

The same object is seen by several satellites and in several years; its number is the place, which no two splits share
unless the published tables do. The pickles of the release are never read: a pickle is a program.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from data_modules.readers.layout import Rows
from data_modules.readers.satellite_layout import SatelliteLayout
from data_modules.readers.table import Table, find
from domainvl.data.manifest import Manifest, Record, parse_split
from domainvl.data.paths import inside
from domainvl.data.texts.reports import clean

_OBJECT = re.compile(r"([awn]\d+)_")


@dataclass(frozen=True)
class SkyScript(SatelliteLayout):
    """Tables with `filepath`, `title` and, where it is there, `title_multi_objects`; each text is a view of its name.

    Tables of RSICD and others in the same form are read too; a picture without an object's number is its own place.

    Attributes:
        train: The table to train on, as a pattern of file names below the root.
        validate: The table to validate on.
        test: The table to test on.
    """

    train: str = "dataframe/*train*.csv"
    validate: str = "dataframe/*val*.csv"
    test: str = "dataframe/*test*.csv"

    def read(self, root: Path) -> Manifest:
        """The rows of the three tables."""
        rows = Rows()
        for split in ("train", "validate", "test"):
            table = self._table(root, split)
            names = ["title", *(["title_multi_objects"] if "title_multi_objects" in table.columns else [])]
            for number, (file, *cells) in table.rows("filepath", *names):
                path = inside(root, file, f"{table.path.name}: row {number}")
                texts = {name: text for name, cell in zip(names, cells, strict=True) if (text := clean(cell))}
                if not texts:
                    rows.reject(number, path, "its titles are empty")
                    continue
                known = _OBJECT.match(Path(path).name)
                place = path if known is None else known[1]
                rows.add(Record(path, path, place, split=parse_split(split), row=number, texts=texts))
        return Manifest("SkyScript", root, tuple(rows.records), rejected=tuple(rows.rejected))

    def _table(self, root: Path, split: str) -> Table:
        pattern: str = getattr(self, split)
        found = sorted(root.glob(pattern))
        if len(found) > 1:
            there = ", ".join(path.name for path in found)
            raise ValueError(f"SkyScript: {pattern} fits {there}; name the one to use in data.layout.{split}")
        return Table(found[0] if found else find(root, [pattern], "SkyScript"))
