"""Rows that could not be used: listed with their reason, never replaced, never more than a stated share."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


class UnreadableImage(ValueError):
    """An image file that does not hold what it promises. The text is a reason without path or patient."""


class TooManyRejects(RuntimeError):
    """More rows were rejected than the stated share allows."""


@dataclass(frozen=True)
class Reject:
    """One row that is left out.

    Attributes:
        row: Line in the table, from 2 (1 is the header); 0 where there is no table.
        path: Image, relative to the root.
        reason: Why, for a person who wants to mend it.
    """

    row: int
    path: str
    reason: str


class Rejects:
    """The list of a run.

    Args:
        share: Largest share of all rows that may be rejected before the run stops.

    Attributes:
        path: File that `flush` writes to; None until a run has a folder.
        total: Number of rows that the share is taken of.
        notes: Rows that are left out for no fault of theirs, by number and path; they do not count towards the share.
    """

    def __init__(self, share: float = 0.01) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"Rejects: share is {share}; give a number from 0 to 1, 0.01 is one per cent")
        self.share = share
        self.total = 0
        self.path: Path | None = None
        self._rows: dict[tuple[int, str], Reject] = {}
        self.notes: dict[tuple[int, str], Reject] = {}

    def add(self, rejects: Iterable[Reject]) -> None:
        """Take rows in; one that is known already (a second epoch) is counted once."""
        for reject in rejects:
            self._rows.setdefault((reject.row, reject.path), reject)

    def note(self, rejects: Iterable[Reject]) -> None:
        """Take rows in that are left out for no fault of theirs: they are listed and do not count."""
        for reject in rejects:
            self.notes.setdefault((reject.row, reject.path), reject)

    def check(self) -> None:
        """Raise TooManyRejects when the share is passed, after writing the list (here, when there is no run folder).

        The text names rows, not files: file names of real archives hold patient numbers, and errors end up in logs.
        """
        if len(self) <= self.share * self.total:
            return
        self.path = self.path or Path("rejects.csv")
        self.write(self.path)
        first = next(iter(self))
        place = f", row {first.row}" if first.row else ""
        raise TooManyRejects(
            f"{len(self)} of {self.total} rows cannot be used, more than the {self.share:.3g} that reject_share "
            f"allows. The first{place}: {first.reason}. The whole list with reasons is in "
            f"{self.path.resolve()}. Mend the files or raise reject_share"
        )

    def flush(self) -> None:
        """Write the list to `path`, if there is a path and anything to list."""
        if (self._rows or self.notes) and self.path is not None:
            self.write(self.path)

    def write(self, path: Path) -> None:
        """Write the list, also an empty one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_rejects(path, (*self, *self.notes.values()))

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Reject]:
        return iter(self._rows.values())


def write_rejects(path: Path, rejects: Iterable[Reject]) -> None:
    """Write a list as CSV: columns row, path, reason."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("row", "path", "reason"))
        writer.writerows((reject.row or "", reject.path, reject.reason) for reject in rejects)


def attempted(read: Callable[[], Tensor]) -> Tensor | str:
    """What a reader gives, or the reason why it gives nothing."""
    try:
        return read()
    except UnreadableImage as error:
        return str(error)
    except FileNotFoundError:
        return "the file does not exist"
    except OSError as error:
        return f"the file cannot be read: {error.strerror or type(error).__name__}"
