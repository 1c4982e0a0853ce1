"""Quilt-1M's table of pictures and captions, many to many.

`quilt_1M_lookup.csv` has a row per pair: 650 thousand pictures make a million rows. A record here is a picture, so that
no batch holds one twice and calls it a negative of itself; its captions are texts `caption`, `caption_2` ..., of which
training draws one. Pictures of one video that share a caption get the same study, which `SameGroup` takes for matches.
The video is the patient, so that its frames do not cross a split. Captions that happen to be the same in two videos are
no group, since remarks such as "look here" would join them all: `TextSimilarity` knows them batch by batch.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from data_modules.readers.boxes import placed
from data_modules.readers.layout import Layout
from data_modules.readers.table import Table
from domainvl.data.manifest import Manifest, Record, Split, parse_split
from domainvl.data.paths import inside
from domainvl.data.texts.reports import clean

_VIDEO = re.compile(r"^(.+)_image_[^_]+\.\w+$")
_TRUE = {"1", "1.0", "true"}
_OPTIONAL = ("split", "roi_text", "corrected_text", "single_wsi", "not_histology")


@dataclass(frozen=True)
class Quilt1M(Layout):
    """The published columns `caption` and `image_path`, and more of them where they are there.

    `split` is kept, `roi_text` and `corrected_text` are further texts, `single_wsi` and `not_histology` are read.

    Impure pairs are left out and counted: pictures that are marked as no histology, captions too short to say anything,
    and, where asked for, pictures with more in them than one slide. They are no rejects, which are files to be mended.

    Attributes:
        table: The file, below the root or anywhere.
        images: Folder of the pictures, relative to the root.
        captions: Most captions of a picture that are kept, as `caption`, `caption_2` and so on.
        least_words: Words that a caption must have.
        single_slide: Leave out pictures that are not marked as showing a single slide (video frames with a narrator,
            several panels).
    """

    table: str = "quilt_1M_lookup.csv"
    images: str = ""
    captions: int = 4
    least_words: int = 3
    single_slide: bool = False

    def __post_init__(self) -> None:
        if self.captions < 1 or self.least_words < 1:
            raise ValueError(
                f"Quilt1M: captions is {self.captions} and least_words {self.least_words}; both must be at least 1"
            )

    def read(self, root: Path) -> Manifest:
        """One record per picture."""
        table = Table(placed(root, self.table))
        there = [name for name in _OPTIONAL if name in table.columns]
        impure: Counter[str] = Counter()
        records = []
        found: dict[str, _Picture] = {}
        for number, (caption, name, *cells) in table.rows("caption", "image_path", *there):
            at = dict(zip(there, cells, strict=True))
            path = inside(root, f"{self.images}/{name}".lstrip("/"), f"{table.path.name}: row {number}")
            text = clean(caption)
            reason = self._impure(text, at)
            if reason:
                impure[reason] += 1
                continue
            picture = found.setdefault(path, _Picture(number, at.get("split", "")))
            picture.texts.setdefault(text, (_listed(at.get("roi_text", "")), _listed(at.get("corrected_text", ""))))
        videos = [_video(path) for path in found]
        pairs = list(zip(videos, found.values(), strict=True))
        groups = _joined([[(video, text) for text in one.texts] for video, one in pairs])
        splits: dict[str, Split | None] = {}
        for (path, one), video, group in zip(found.items(), videos, groups, strict=True):
            # A video on both sides of the published split would be a leak: it goes where its first row is.
            split = splits.setdefault(video, parse_split(one.split) if one.split else None)
            texts = self._texts(one)
            records.append(Record(path, path, video, split=split, study=f"c{group}", row=one.row, texts=texts))
        left_out = ", ".join(f"{count} {reason}" for reason, count in impure.most_common())
        return Manifest(
            name=table.path.name,
            root=root,
            records=tuple(records),
            licence="see the licences of Quilt's sources; research use",
            warnings=(f"impure pairs are left out: {left_out}",) if impure else (),
        )

    def _impure(self, caption: str, at: dict[str, str]) -> str:
        if at.get("not_histology", "").lower() in _TRUE:
            return "marked not_histology"
        if self.single_slide and at.get("single_wsi", "1").lower() not in _TRUE:
            return "not marked single_wsi"
        return f"with captions below {self.least_words} words" if len(caption.split()) < self.least_words else ""

    def _texts(self, picture: _Picture) -> dict[str, str]:
        names = ["caption", *(f"caption_{number}" for number in range(2, self.captions + 1))]
        texts = dict.fromkeys(names, "") | dict(zip(names, picture.texts, strict=False))
        regions, corrected = next(iter(picture.texts.values()))
        return texts | {"roi_text": regions, "corrected_text": corrected}


class _Picture:
    """What the rows of one picture say."""

    def __init__(self, row: int, split: str) -> None:
        self.row, self.split = row, split
        self.texts: dict[str, tuple[str, str]] = {}


def _listed(cell: str) -> str:
    """A cell that holds a Python list of strings as one text."""
    if not cell.startswith("["):
        return clean(cell)
    try:
        parts = ast.literal_eval(cell)
    except (SyntaxError, ValueError):
        return clean(cell)
    return clean(" ".join(part for part in parts if isinstance(part, str)))


def _video(path: str) -> str:
    """The video that a frame is of, by Quilt's file names; any other picture is a source of its own."""
    name = path.rpartition("/")[2]
    found = _VIDEO.match(name)
    return found[1] if found else path


def _joined(keys: list[list[tuple[str, str]]]) -> list[int]:
    """Number of the group that each item is in, where items that share a key are in one (union-find)."""
    parent = list(range(len(keys)))

    def top(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    first: dict[tuple[str, str], int] = {}
    for item, own in enumerate(keys):
        for key in own:
            one, other = top(item), top(first.setdefault(key, item))
            parent[max(one, other)] = min(one, other)
    return list(map(top, range(len(keys))))
