"""Tables of boxes: a phrase, and where in a picture it is true; the columns of MS-CXR, or plainer names for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

from data_modules.readers.table import Table
from domainvl.data.boxes import Box
from domainvl.data.manifest import Manifest

_IMAGE = ("image", "dicom_id", "path")
_PHRASE = ("label_text", "phrase")
_NUMBERS = ("x", "y", "w", "h", "image_width", "image_height")


def with_boxes(manifest: Manifest, path: Path) -> Manifest:
    """The manifest with the boxes of a table.

    Its columns are `image` (or `dicom_id`, `path`: a record's id, path, or file name without suffix), `label_text` (or
    `phrase`), `x`, `y`, `w`, `h` in pixels of the original picture, `image_width` and `image_height`.

    Args:
        manifest: The images.
        path: The table.
    """
    table = Table(path)
    boxes: dict[str, list[Box]] = {}
    for number, (image, phrase, *cells) in table.rows(_first(table, _IMAGE), _first(table, _PHRASE), *_NUMBERS):
        try:
            x, y, width, height, whole_width, whole_height = (float(cell) for cell in cells)
            box = Box(phrase, x, y, x + width, y + height, int(whole_width), int(whole_height))
        except ValueError as error:
            raise ValueError(f"table {path.name}: row {number}: {error}") from error
        boxes.setdefault(image, []).append(box)
    found: set[str] = set()
    records = []
    for record in manifest.records:
        name = next((name for name in _names(record.id, record.path) if name in boxes), None)
        if name is not None:
            found.add(name)
            record = replace(record, boxes=tuple(boxes[name]))
        records.append(record)
    if boxes and not found:
        raise ValueError(
            f"table {path.name}: none of its {len(boxes)} images is one of {manifest.name}; its column "
            f"{_first(table, _IMAGE)} should hold an image's id, its path or its file name without suffix"
        )
    lost = len(boxes) - len(found)
    told = (f"{lost} of {len(boxes)} images of {path.name} are not in the data set; their boxes are left out",)
    return replace(manifest, records=tuple(records), warnings=manifest.warnings + (told if lost else ()))


def placed(root: Path, name: str) -> Path:
    """A table below the root, or where its name says."""
    inner = root / name
    return inner if inner.exists() or not Path(name).exists() else Path(name)


def _names(identity: str, path: str) -> tuple[str, ...]:
    return identity, path, PurePosixPath(path).stem


def _first(table: Table, names: tuple[str, ...]) -> str:
    found = next((name for name in names if name in table.columns), names[0])
    table.require(found)
    return found
