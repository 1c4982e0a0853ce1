"""What a long pass found so far, on disk in the order of its source; killed at any moment, it goes on from there.

    <folder>/rows.jsonl     a line per item: [row, name, reason why it was left out, or ""]
    <folder>/values.npy     a row of numbers for each item that was not left out

The lines are the truth. A batch's numbers are written before its lines, so whatever a kill leaves is cut back to the
last whole batch: batches of a resumed pass are those of an undisturbed one, and so are their numbers, to the bit.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from domainvl.data.bulk.sources import Item
from domainvl.data.rejects import Reject


@dataclass(frozen=True)
class Answered:
    """A batch of which everything is known.

    Attributes:
        items: What was asked about, in order.
        reasons: Why an item was left out; empty where it was not. One for each item.
        values: One row for each item that was not left out, `[G, W]`; None where all were.
    """

    items: Sequence[Item]
    reasons: Sequence[str]
    values: np.ndarray | None


@dataclass(frozen=True, slots=True)
class Line:
    """What the journal says of one item; see `Item`."""

    row: int
    name: str
    reason: str


class Journal:
    """Rows by item.

    Args:
        folder: Where it lies; there already.
        width: Numbers per row.
        dtype: Their type.
        batch: Items per batch; what lies there is cut back to a multiple of it.

    Attributes:
        done: Items that it knows of.
        good: Rows that it holds.
    """

    def __init__(self, folder: Path, width: int, dtype: np.dtype, batch: int) -> None:
        self.lines_path, self.values_path = folder / "rows.jsonl", folder / "values.npy"
        self.width, self.dtype = width, dtype
        self._head = len(self._header(0))
        self.done, self.good, end = self._recovered(batch)
        self._lines = _opened(self.lines_path, end)
        self._values = _opened(self.values_path, self._head + self.good * self._row)
        self._write_header()

    def append(self, batch: Answered) -> None:
        """Keep a batch."""
        lines = [
            json.dumps([item.row, item.name, reason]) + "\n"
            for item, reason in zip(batch.items, batch.reasons, strict=True)
        ]
        good = sum(not reason for reason in batch.reasons)
        values = np.empty((0, self.width)) if batch.values is None else batch.values
        if values.shape != (good, self.width):
            raise ValueError(f"Journal: {good} rows of {self.width} numbers belong here, got {values.shape}")
        self._values.write(np.ascontiguousarray(values, self.dtype).data)
        self._values.flush()
        self._lines.write("".join(lines).encode())
        self._lines.flush()
        self.done += len(lines)
        self.good += good

    def kept(self, size: int) -> Iterator[tuple[list[Line], np.ndarray]]:
        """What was not left out, up to `size` items at a time, with their numbers `[G, W]`."""
        lines = self.kept_lines()
        with self.values_path.open("rb") as file:
            file.seek(self._head)
            while some := list(islice(lines, size)):
                yield some, np.fromfile(file, self.dtype, len(some) * self.width).reshape(len(some), self.width)

    def kept_lines(self) -> Iterator[Line]:
        """What was not left out."""
        return (line for line in self._read() if not line.reason)

    def rejects(self) -> Iterator[Reject]:
        """What was left out."""
        return (Reject(line.row, line.name, line.reason) for line in self._read() if line.reason)

    def seal(self) -> Path:
        """Make `values.npy` a whole file for `numpy.load`, and say where it lies."""
        self._write_header()
        return self.values_path

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lines.close()
        self._values.close()

    @property
    def _row(self) -> int:
        """Bytes of a row."""
        return self.width * self.dtype.itemsize

    def _read(self) -> Iterator[Line]:
        with self.lines_path.open("rb") as file:
            for line in islice(file, self.done):
                yield Line(*json.loads(line))

    def _recovered(self, batch: int) -> tuple[int, int, int]:
        """Items, rows and bytes of lines up to the end of the last whole batch."""
        if not self.lines_path.exists() or not self.values_path.exists():
            return 0, 0, 0
        room = (self.values_path.stat().st_size - self._head) // self._row
        done = good = end = 0
        safe = (0, 0, 0)
        with self.lines_path.open("rb") as file:
            for line in file:
                reason = _reason(line)
                good += reason == ""
                if reason is None or good > room:
                    break
                done, end = done + 1, end + len(line)
                if done % batch == 0:
                    safe = (done, good, end)
        return safe

    def _header(self, rows: int) -> bytes:
        """How a .npy file begins; numpy leaves room in it for a number of rows of any length."""
        text = io.BytesIO()
        shape = (rows, self.width)
        descr = np.lib.format.dtype_to_descr(self.dtype)
        np.lib.format.write_array_header_1_0(text, {"descr": descr, "fortran_order": False, "shape": shape})
        return text.getvalue()

    def _write_header(self) -> None:
        self._values.seek(0)
        self._values.write(self._header(self.good))
        self._values.seek(0, os.SEEK_END)
        self._values.flush()


def _opened(path: Path, size: int) -> BinaryIO:
    """A file to append to, cut to its first `size` bytes."""
    path.touch()
    file = path.open("r+b")
    file.truncate(size)
    file.seek(size)
    return file


def _reason(line: bytes) -> str | None:
    """What a line says; None where it is not whole."""
    try:
        _, _, reason = json.loads(line) if line.endswith(b"\n") else (None, None, None)
    except (ValueError, TypeError):
        return None
    return reason if isinstance(reason, str) else None
