"""CSV tables, streamed: plain or gzipped, with errors that name the column or row."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from domainvl.data.names import hint, listing

_PACKED_WRONG = (EOFError, gzip.BadGzipFile, zlib.error)


class Table:
    """One CSV or TSV file with a header.

    Args:
        path: The file; a name that ends in .gz is unpacked on the fly.

    Attributes:
        path: The file.
        columns: Column names.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            there = sorted(one.name for one in path.parent.glob("*") if ".csv" in one.name or ".tsv" in one.name)
            raise FileNotFoundError(
                f"table {path} does not exist{hint(path.name, there)} The tables in its folder: {listing(there)}"
            )
        self._delimiter = "\t" if ".tsv" in path.name else ","
        with self._open() as file:
            try:
                first = file.readline()
            except UnicodeDecodeError as error:
                raise self._not_text() from error
            except _PACKED_WRONG as error:
                raise self._damaged() from error
        if not first.strip():
            raise ValueError(f"table {path} is empty; its first line must name the columns")
        if self._delimiter == "," and "," not in first and ";" in first:
            self._delimiter = ";"
        self.columns = [name.strip() for name in next(csv.reader([first], delimiter=self._delimiter))]
        repeated = [name for name, count in Counter(self.columns).items() if count > 1 and name]
        if repeated:
            raise ValueError(f"table {path.name}: column {repeated[0]!r} is there twice; rename one")

    def require(self, *names: str) -> None:
        """Raise for the first column that is not there, naming near matches and what is there."""
        for name in names:
            if name not in self.columns:
                raise ValueError(
                    f"table {self.path.name}: there is no column {name!r}{hint(name, self.columns)} "
                    f"Its columns are: {listing(self.columns)}"
                )

    def rows(self, *names: str) -> Iterator[tuple[int, list[str]]]:
        """Row number (2 is the first below the header) and the stripped cells of these columns."""
        self.require(*names)
        places = [self.columns.index(name) for name in names]
        last = max(places, default=0)
        with self._open() as file:
            reader = csv.reader(file, delimiter=self._delimiter)
            next(reader)
            number = 1
            try:
                for cells in reader:
                    number += 1
                    if not cells:
                        continue
                    if len(cells) <= last:
                        raise ValueError(
                            f"table {self.path.name}: row {number} has {len(cells)} cells, the header names "
                            f"{len(self.columns)}; mend the row"
                        )
                    yield number, [cells[place].strip() for place in places]
            except UnicodeDecodeError as error:
                raise self._not_text() from error
            except _PACKED_WRONG as error:
                raise self._damaged() from error
            except csv.Error as error:
                raise ValueError(f"table {self.path.name}: row {number + 1} is no CSV: {error}") from error

    def _not_text(self) -> ValueError:
        return ValueError(f"table {self.path.name} is not UTF-8 text; save it as UTF-8")

    def _damaged(self) -> ValueError:
        return ValueError(f"table {self.path.name} is no whole gzip file; download it again")

    def _open(self) -> TextIO:
        if self.path.suffix == ".gz":
            return gzip.open(self.path, "rt", encoding="utf-8-sig", newline="")
        return self.path.open(encoding="utf-8-sig", newline="")


def find(root: Path, patterns: Sequence[str], what: str) -> Path:
    """The first file in `root` that matches a pattern, packed or not."""
    for pattern in patterns:
        found = sorted([*root.glob(pattern), *root.glob(pattern + ".gz")])
        if found:
            return found[0]
    there = sorted(entry.name for entry in root.iterdir())
    raise FileNotFoundError(
        f"{what}: neither {patterns[0]} nor {patterns[0]}.gz lies in {root}; it holds {listing(there[:20])}. "
        "Give the root of the data set as it was downloaded"
    )
