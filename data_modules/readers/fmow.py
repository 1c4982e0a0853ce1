"""fMoW-rgb: what stands at a place, seen several times; boxes, times and zones are in a JSON beside every picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_modules.readers.generic import sub_folders
from data_modules.readers.layout import Rows, present
from data_modules.readers.satellite_layout import SatelliteLayout
from domainvl.data.manifest import Manifest, Record, Split, parse_split

FALSE_DETECTION = "false detection"


@dataclass(frozen=True)
class Fmow(SatelliteLayout):
    """`train|val|test/<category>/<category>_<i>/<category>_<i>_<t>_rgb.{jpg,json}`: one record per box.

    A place is the folder of its pictures, so all its times are in one split. Without `test` the validation set is the
    test split, and a tenth of the training places validates.

    Attributes:
        false_detections: Whether boxes that show nothing are a class.
    """

    false_detections: bool = False

    def read(self, root: Path) -> Manifest:
        """The boxes as records."""
        tops = [name for name in ("train", "val", "test") if (root / name).is_dir()]
        if "train" not in tops or len(tops) < 2:
            raise FileNotFoundError(f"fMoW: {root} holds no folders train and val; give the root of fMoW-rgb")
        categories = sorted({folder.name for top in tops for folder in sub_folders(root / top)})
        classes = tuple(name.replace("_", " ") for name in categories)
        if self.false_detections and FALSE_DETECTION not in classes:
            classes = (*classes, FALSE_DETECTION)
        rows = Rows()
        for top in tops:
            split: Split = parse_split(top) if "test" in tops or top == "train" else "test"
            for file in sorted((root / top).glob("*/*/*_rgb.json")):
                self._add(rows, root, file, split, classes)
        return Manifest(
            "fMoW", root, tuple(rows.records), classes, multilabel=False, rejected=tuple(rows.rejected), carve=0.1
        )

    def _add(self, rows: Rows, root: Path, file: Path, split: Split, classes: tuple[str, ...]) -> None:
        path = file.with_suffix(".jpg").relative_to(root).as_posix()
        try:
            about = json.loads(file.read_text(encoding="utf-8"))
            boxes = list(_boxes(about))
            time = str(about.get("timestamp", ""))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            rows.reject(0, path, f"its JSON is damaged: {type(error).__name__}")
            return
        place = file.parent.relative_to(root).as_posix()
        for category, box in boxes:
            name = category.replace("_", " ")
            if name not in classes:
                if name != FALSE_DETECTION:
                    rows.reject(0, path, f"its category {name[:40]!r} is no folder of the data set")
                continue
            part = f"{path}#{','.join(map(str, box))}"
            rows.add(Record(part, path, place, present(classes, [name]), split, place, time, part=box))


def _boxes(about: dict[str, Any]) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    for one in about["bounding_boxes"]:
        left, top, width, height = (round(float(value)) for value in one["box"])
        if width < 1 or height < 1:
            raise ValueError("a box of no size")
        yield str(one["category"]), (max(0, left), max(0, top), width, height)
