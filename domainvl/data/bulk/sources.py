"""What a long pass goes through: the images of a folder or a table, the texts of a file. Streamed, in a fixed order."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from domainvl.data.paths import existing_root, inside


class Column(Protocol):
    """A table that is read row by row."""

    def rows(self, *names: str) -> Iterable[tuple[int, list[str]]]:
        """Row numbers, from 2, and the cells of these columns."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image or text.

    Attributes:
        row: Line of the table or of the text file; 0 where there is none.
        name: What results call it: the path as it was given, or the hash of a text.
        content: The path relative to the root; or the text itself, which no result holds.
        fault: Why it cannot be used; empty where nothing is known against it.
    """

    row: int
    name: str
    content: str = field(default="", repr=False)
    fault: str = ""


@dataclass(frozen=True)
class Survey:
    """What a source holds.

    Attributes:
        count: How many items.
        digest: A hash over all of them, in order.
    """

    count: int
    digest: str


class Source(ABC):
    """Items in an order that is the same every time.

    Attributes:
        named: What `Item.name` is, the name of its column in results.
    """

    named: ClassVar[str] = "path"

    @abstractmethod
    def __iter__(self) -> Iterator[Item]:
        """All items."""

    @abstractmethod
    def nothing(self) -> str:
        """What to say where there are none."""

    def survey(self) -> Survey:
        """Go through all items once, which reads no image."""
        digest, count = hashlib.sha256(), 0
        for item in self:
            digest.update(f"{item.row}\0{item.name}\0{item.fault}\n".encode())
            count += 1
        if not count:
            raise ValueError(self.nothing())
        return Survey(count, digest.hexdigest()[:16])


class ImageFolder(Source):
    """Every file below a folder whose name ends as images do; links to folders are not followed.

    Args:
        root: The folder.
        suffixes: How names end, lower case.
    """

    def __init__(self, root: Path, suffixes: tuple[str, ...]) -> None:
        self.root = existing_root(root, "ImageFolder")
        self.suffixes = suffixes

    def __iter__(self) -> Iterator[Item]:
        return self._below(self.root, "")

    def nothing(self) -> str:
        """See `Source.nothing`."""
        return f"no image lies in {self.root}; looked for {', '.join(self.suffixes)}"

    def _below(self, folder: Path, above: str) -> Iterator[Item]:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        for name, is_folder in found:
            if is_folder:
                yield from self._below(folder / name, f"{above}{name}/")
            elif name.lower().endswith(self.suffixes):
                yield _listed(above + name)


class ImageColumn(Source):
    """The images that a table names, row by row; a path that leads out of the root is a fault of its row.

    Args:
        table: The table.
        column: Its column of paths.
        root: Folder that they are relative to.
    """

    def __init__(self, table: Column, column: str, root: Path) -> None:
        self.table, self.column = table, column
        self.root = existing_root(root, "ImageColumn")

    def __iter__(self) -> Iterator[Item]:
        for row, (cell,) in self.table.rows(self.column):
            try:
                yield Item(row, cell, inside(self.root, cell, f"row {row}"))
            except ValueError as error:
                yield Item(row, cell, fault=str(error))

    def nothing(self) -> str:
        """See `Source.nothing`."""
        return f"column {self.column!r} of the table names no image"


class Texts(Source):
    """Texts by line or row. Results hold a hash in place of each, for reports say who somebody is.

    Args:
        rows: A fresh pass over numbered texts, each time that it is iterated.
    """

    named = "sha256"

    def __init__(self, rows: Iterable[tuple[int, str]]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Item]:
        for row, text in self.rows:
            name = hashlib.sha256(text.encode()).hexdigest()[:16]
            yield Item(row, name, text, "" if text else "the text is empty")

    def nothing(self) -> str:
        """See `Source.nothing`."""
        return "there is no text; give a file with a text in each line, or a table with a column of them"


class TextColumn:
    """Texts of a table.

    Args:
        table: The table.
        column: Its column of texts.
    """

    def __init__(self, table: Column, column: str) -> None:
        self.table, self.column = table, column

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return ((row, cell) for row, (cell,) in self.table.rows(self.column))


class TextLines:
    """Texts of a file, one in each line, numbered from 1.

    Args:
        path: The file, UTF-8.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[tuple[int, str]]:
        with self.path.open(encoding="utf-8-sig") as file:
            try:
                for number, line in enumerate(file, 1):
                    yield number, line.strip()
            except UnicodeDecodeError as error:
                raise ValueError(f"{self.path.name} is not UTF-8 text; save it as UTF-8") from error


def _listed(name: str) -> Item:
    """A file that was found; its name has to be text before it can stand in a table."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return Item(0, name.encode(errors="surrogateescape").decode(errors="replace"), fault="its name is not UTF-8")
    return Item(0, name, name)
