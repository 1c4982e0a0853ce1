"""Anybody's own data: a table with one row per image, or a folder with one sub-folder per class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_modules.readers.boxes import placed, with_boxes
from data_modules.readers.image import SUFFIXES
from data_modules.readers.layout import LabelReader, Layout, Rows, present
from data_modules.readers.table import Table
from domainvl.data.labels import CELLS, NOT_A_NUMBER, Label
from domainvl.data.manifest import Manifest, Record, parse_split
from domainvl.data.names import listing
from domainvl.data.paths import inside
from domainvl.data.texts.reports import clean, split_report

NO_PATIENTS = (
    "no patient is known, so every image counts as a patient of its own; if patients have several images, splits leak "
    "and intervals are too narrow. Name a patient column if there is one"
)
_CLASS_COLUMNS = ("label", "class")
_TEXT_COLUMNS = ("caption", "caption_2", "caption_3", "caption_4", "caption_5", "rewritten")
_TEXT_ROLES = ("report", "findings", "impression")
_TEXT = "text:"
_BOXES = "boxes.csv"
_ENOUGH = 20


@dataclass(frozen=True)
class ImageTable(Layout):
    """A table with one row per image.

    A column that is named must exist. What is not named is taken from the column of the same name if there is one:
    `image`, `patient`, `study`, `view`, `split`, `report`, `findings`, `impression`, `caption` (to `caption_5`),
    `rewritten`, `organs`, and `label` or `class` for data with one class per image. If there is no such class column
    either, every other column that holds only labels (1, 0, -1, blank) is a class. Boxes come from `boxes.csv` below
    the root if there is one.

    Attributes:
        table: The file, below the root or anywhere.
        image_column: Image paths, relative to the root.
        label_columns: One column per class, holding 1, 0, -1 (uncertain) or nothing; an empty list for none.
        class_column: One column that holds the name of the image's only class.
        patient_column: Patients.
        study_column: Studies.
        split_column: train, validate or test.
        view_column: Projections.
        report_column: Reports: their text, or paths to .txt files, relative to the root.
        findings_column: Findings sections.
        impression_column: Impression sections.
        text_columns: Further texts, each a view of its column's name (`data.texts.views`).
        organs_column: Label maps of organs (volumes), files or folders, relative to the root.
        boxes_table: CSV of boxes (`data_modules.readers.boxes`), below the root or anywhere.
    """

    table: str = "studies.csv"
    image_column: str | None = None
    label_columns: Sequence[str] | None = None
    class_column: str | None = None
    patient_column: str | None = None
    study_column: str | None = None
    split_column: str | None = None
    view_column: str | None = None
    report_column: str | None = None
    findings_column: str | None = None
    impression_column: str | None = None
    text_columns: Sequence[str] | None = None
    organs_column: str | None = None
    boxes_table: str | None = None

    def __post_init__(self) -> None:
        if self.label_columns is not None and self.class_column is not None:
            raise ValueError(
                "ImageTable: label_columns (several classes per image) and class_column (one) exclude each other"
            )

    def read(self, root: Path) -> Manifest:
        """The table's rows as records."""
        table = Table(placed(root, self.table))
        columns = self._columns(table)
        class_column = self._class_column(table)
        if class_column is not None:
            label_columns = [class_column]
            classes = _class_names(table, class_column)
            read: Callable[[Sequence[str]], tuple[Label, ...]] = _ClassReader(class_column, classes)
        else:
            texts = columns.keys() & set(_TEXT_ROLES) or any(role.startswith(_TEXT) for role in columns)
            chosen = self.label_columns
            label_columns = _label_columns(table, columns, bool(texts)) if chosen is None else list(chosen)
            classes = tuple(label_columns)
            read = LabelReader(classes)
        rows = _collected(root, table, columns, label_columns, read)
        manifest = Manifest(
            name=table.path.name,
            root=root,
            records=tuple(rows.records),
            classes=classes,
            multilabel=class_column is None,
            rejected=tuple(rows.rejected),
            reports=root,
            warnings=() if "patient" in columns else (NO_PATIENTS,),
        )
        if self.boxes_table is None and not (root / _BOXES).exists():
            return manifest
        return with_boxes(manifest, placed(root, self.boxes_table or _BOXES))

    def image_name(self, table: Table) -> str:
        """The column of image paths."""
        return self.image_column or "image"

    def _columns(self, table: Table) -> dict[str, str]:
        """Column by role: the one that was named, or the one that has the role's name."""
        columns = {"image": self.image_name(table)}
        table.require(columns["image"])
        for role in ("patient", "study", "view", "split", "report", "findings", "impression", "organs"):
            named: str | None = getattr(self, f"{role}_column")
            if named is not None:
                table.require(named)
                columns[role] = named
            elif role in table.columns:
                columns[role] = role
        for name in _TEXT_COLUMNS if self.text_columns is None else self.text_columns:
            if self.text_columns is not None:
                table.require(name)
            if name in table.columns and name not in columns.values():
                columns[_TEXT + name] = name
        return columns

    def _class_column(self, table: Table) -> str | None:
        if self.class_column is not None:
            table.require(self.class_column)
            return self.class_column
        if self.label_columns is not None:
            return None
        return next((name for name in _CLASS_COLUMNS if name in table.columns), None)


class _ClassReader:
    """The cell of a class column to labels."""

    def __init__(self, column: str, classes: Sequence[str]) -> None:
        self.column = column
        self.one_hot = {name: present(classes, [name]) for name in classes}

    def __call__(self, cells: Sequence[str]) -> tuple[Label, ...]:
        if cells[0] not in self.one_hot:
            raise ValueError(f"{self.column}: {'NaN' if cells[0] else 'an empty cell'} is no class")
        return self.one_hot[cells[0]]


def _collected(
    root: Path,
    table: Table,
    columns: dict[str, str],
    label_columns: Sequence[str],
    labels: Callable[[Sequence[str]], tuple[Label, ...]],
) -> Rows:
    rows = Rows()
    roles = list(columns)
    for number, cells in table.rows(*columns.values(), *label_columns):
        at = dict(zip(roles, cells, strict=False))
        path = inside(root, at["image"], f"{table.path.name}: row {number}")
        if "patient" in at and not at["patient"]:
            rows.reject(number, path, f"{columns['patient']}: the patient is missing")
            continue
        try:
            found = labels(cells[len(roles) :])
        except ValueError as error:
            rows.reject(number, path, str(error))
            continue
        rows.add(_record(at, root, path, found, number, table))
    return rows


def _record(at: dict[str, str], root: Path, path: str, labels: tuple[Label, ...], number: int, table: Table) -> Record:
    text = at.get("report", "")
    is_file = text.lower().endswith(".txt") and "\n" not in text
    report = split_report("" if is_file else text)
    try:
        split = parse_split(at["split"]) if at.get("split") else None
    except ValueError as error:
        raise ValueError(f"{table.path.name}: row {number}: {error}") from error
    return Record(
        id=path,
        path=path,
        patient=at.get("patient") or path,
        labels=labels,
        split=split,
        study=at.get("study", ""),
        view=at.get("view", ""),
        row=number,
        report=inside(root, text, f"{table.path.name}: row {number}", "report") if is_file else "",
        findings=clean(at.get("findings", "")) or report.described,
        impression=clean(at.get("impression", "")) or report.impression,
        organs=inside(root, at["organs"], f"{table.path.name}: row {number}", "label map") if at.get("organs") else "",
        texts={role.removeprefix(_TEXT): clean(cell) for role, cell in at.items() if role.startswith(_TEXT)},
    )


def _class_names(table: Table, column: str) -> tuple[str, ...]:
    cells = {cells[0] for _, cells in table.rows(column)}
    return tuple(sorted(cell for cell in cells if cell and cell.lower() not in NOT_A_NUMBER))


def _label_columns(table: Table, columns: dict[str, str], texts: bool) -> list[str]:
    """The columns that hold nothing but labels, at least one where there are no `texts`, which need none."""
    free = [name for name in table.columns if name and name not in columns.values()]
    values: dict[str, set[str]] = {name: set() for name in free}
    for _, cells in table.rows(*free):
        for name, cell in zip(free, cells, strict=True):
            if len(values[name]) < _ENOUGH:
                values[name].add(cell.lower().removesuffix(".0"))
    found = [name for name in free if values[name] - {""} and values[name] <= CELLS.keys() | NOT_A_NUMBER]
    if not found and not texts:
        raise ValueError(
            f"table {table.path.name}: no column holds labels (1, 0, -1 or nothing); name label_columns, or "
            f"class_column for one class per image. Its columns are: {listing(table.columns)}"
        )
    return found


@dataclass(frozen=True)
class ClassFolders(Layout):
    """One folder per class, below the root or below folders named train, val and test.

    Attributes:
        suffixes: How the names of images end, lower case.
    """

    suffixes: tuple[str, ...] = SUFFIXES

    def read(self, root: Path) -> Manifest:
        """The images in the class folders as records."""
        return class_folders(root, self._pictures, "a table", "images", "name the table")

    def _pictures(self, folder: Path) -> list[Path]:
        return [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in self.suffixes]


def class_folders(root: Path, find: Callable[[Path], Iterable[Path]], table: str, what: str, todo: str) -> Manifest:
    """What lies in class folders as records.

    Args:
        root: Holds them, or folders named like splits that do.
        find: What counts, below a folder.
        table: For the error: what is not there either.
        what: For the error: what was looked for.
        todo: For the error: what else would do.
    """
    splits = {folder.name: folder for folder in sub_folders(root) if is_split(folder.name)}
    tops = splits or {"": root}
    classes = tuple(sorted({folder.name for top in tops.values() for folder in sub_folders(top)}))
    records = []
    for name, top in tops.items():
        for folder in sub_folders(top):
            labels = present(classes, [folder.name])
            for place in find(folder):
                path = place.relative_to(root).as_posix()
                records.append(Record(path, path, path, labels, parse_split(name) if name else None))
    if not records:
        raise ValueError(
            f"{root} has neither {table} nor folders with {what}; {todo}, or put {what} into one folder per class. "
            f"It holds: {listing(sorted(entry.name for entry in root.iterdir()))}"
        )
    return Manifest(root.name, root, tuple(records), classes, multilabel=False, warnings=(NO_PATIENTS,))


def sub_folders(root: Path) -> list[Path]:
    """The folders in a folder, without hidden ones."""
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def is_split(name: str) -> bool:
    """Whether a folder is named like a split."""
    try:
        parse_split(name)
    except ValueError:
        return False
    return True
