"""The first sheet of an Excel workbook, read like a CSV table. A workbook is a zip of XML, which needs no library."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from domainvl.data.names import hint, listing

_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_LARGEST = 1 << 30
_CELL = re.compile(r"([A-Z]{1,3})\d+")


class Spreadsheet:
    """One .xlsx file whose first sheet has a header.

    Args:
        path: The file.

    Attributes:
        path: The file.
        columns: Column names.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                if sum(info.file_size for info in archive.infolist()) > _LARGEST:
                    raise ValueError(f"table {path.name}: it unpacks to more than 1 GiB; save it as CSV")
                shared = _strings(archive)
                sheets = sorted(
                    name for name in archive.namelist() if re.fullmatch(r"xl/worksheets/sheet\d+\.xml", name)
                )
                if not sheets:
                    raise ValueError(f"table {path.name}: the workbook has no sheet")
                first = min(sheets, key=lambda name: (len(name), name))
                self._rows = [row for row in _cells(archive, first, shared) if any(row[1].values())]
        except (zipfile.BadZipFile, zlib.error, EOFError, ET.ParseError) as error:
            raise ValueError(f"table {path.name} is no whole Excel workbook; download it again") from error
        if not self._rows:
            raise ValueError(f"table {path} is empty; its first line must name the columns")
        self._places = {name.strip(): place for place, name in self._rows[0][1].items()}
        self.columns = list(self._places)

    def require(self, *names: str) -> None:
        """Raise for the first column that is not there, naming near matches and what is there."""
        for name in names:
            if name not in self._places:
                raise ValueError(
                    f"table {self.path.name}: there is no column {name!r}{hint(name, self.columns)} "
                    f"Its columns are: {listing(self.columns)}"
                )

    def rows(self, *names: str) -> Iterator[tuple[int, list[str]]]:
        """Row number (2 is the first below the header) and the stripped cells of these columns."""
        self.require(*names)
        for number, cells in self._rows[1:]:
            yield number, [cells.get(self._places[name], "").strip() for name in names]


def _strings(archive: zipfile.ZipFile) -> list[str]:
    """Texts that cells refer to by number."""
    if "xl/sharedStrings.xml" not in archive.namelist():
        return []
    with archive.open("xl/sharedStrings.xml") as file:
        return [_text(item) for item in ET.parse(file).getroot().iter(f"{_MAIN}si")]


def _cells(archive: zipfile.ZipFile, name: str, shared: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    with archive.open(name) as file:
        for number, row in enumerate(ET.parse(file).getroot().iter(f"{_MAIN}row"), start=1):
            found: dict[str, str] = {}
            for place, cell in enumerate(row.iter(f"{_MAIN}c")):
                match = _CELL.fullmatch(cell.get("r", ""))
                found[match[1] if match else str(place)] = _value(cell, shared)
            yield int(row.get("r", number)), found


def _value(cell: ET.Element, shared: list[str]) -> str:
    if cell.get("t") == "inlineStr":
        return _text(cell)
    value = cell.find(f"{_MAIN}v")
    text = "" if value is None or value.text is None else value.text
    return shared[int(text)] if cell.get("t") == "s" and text else text


def _text(node: ET.Element) -> str:
    """All runs of a text, without the reading aids of Japanese."""
    runs = [*node.findall(f"{_MAIN}t"), *node.findall(f"{_MAIN}r/{_MAIN}t"), *node.findall(f"{_MAIN}is/{_MAIN}t")]
    return "".join(run.text or "" for run in runs)
