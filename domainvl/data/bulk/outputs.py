"""How what a pass found is written: a table in CSV or Parquet, or an array with a table of what its rows are."""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from domainvl.data.bulk.journal import Journal
from domainvl.data.bulk.sources import Source

_ROWS = 16384
"""Rows in memory at once, and in a row group of Parquet."""


class Output(ABC):
    """Base of all formats.

    Args:
        dtype: Type of the numbers.
    """

    def __init__(self, dtype: type[np.floating] = np.float32) -> None:
        self.dtype = np.dtype(dtype)

    def files(self, output: Path) -> list[Path]:
        """What is written for `output`."""
        return [output]

    @abstractmethod
    def write(self, folder: Path, journal: Journal, columns: Sequence[str], source: Source) -> list[Path]:
        """Write `files` as drafts into a folder.

        Args:
            folder: Where to.
            journal: The rows.
            columns: What their numbers are.
            source: What it went through.
        """


class CsvOutput(Output):
    """One line per item: its name, then its numbers with every digit."""

    def write(self, folder: Path, journal: Journal, columns: Sequence[str], source: Source) -> list[Path]:
        """See `Output.write`."""
        draft = folder / "table.csv"
        # float64 prints the shortest text that reads back to the same number, for float32 values too.
        rows = (
            [line.name, *numbers]
            for lines, values in journal.kept(_ROWS)
            for line, numbers in zip(lines, values.astype(np.float64).tolist(), strict=True)
        )
        _write_csv(draft, [source.named, *columns], rows)
        return [draft]


class ParquetOutput(Output):
    """The same in Parquet; pyarrow is loaded when one is made, so that its absence shows before the work."""

    def __init__(self) -> None:
        super().__init__()
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise ValueError(
                "Parquet needs pyarrow: pip install 'domainvl[parquet]', or give a file that ends in .csv"
            ) from error
        self._arrow = pyarrow

    def write(self, folder: Path, journal: Journal, columns: Sequence[str], source: Source) -> list[Path]:
        """See `Output.write`."""
        arrow, draft = self._arrow, folder / "table.parquet"
        kind = arrow.from_numpy_dtype(self.dtype)
        schema = arrow.schema([(source.named, arrow.string()), *((name, kind) for name in columns)])
        with arrow.parquet.ParquetWriter(draft, schema) as writer:
            for lines, values in journal.kept(_ROWS):
                cells = [arrow.array([line.name for line in lines]), *(arrow.array(column) for column in values.T)]
                writer.write_batch(arrow.record_batch(cells, schema=schema))
        return [draft]


class ArrayOutput(Output):
    """A .npy file for `numpy.load(..., mmap_mode="r")`, and a CSV file beside it that says what its rows are."""

    def files(self, output: Path) -> list[Path]:
        """The array and the table."""
        return [output, output.with_suffix(".csv")]

    def write(self, folder: Path, journal: Journal, columns: Sequence[str], source: Source) -> list[Path]:
        """See `Output.write`; the numbers lie in the journal as they should already."""
        draft = folder / "table.csv"
        rows = ([index, line.row or "", line.name] for index, line in enumerate(journal.kept_lines()))
        _write_csv(draft, ["index", "row", source.named], rows)
        return [journal.seal(), draft]


def _write_csv(path: Path, header: Sequence[str], rows: Iterator[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
