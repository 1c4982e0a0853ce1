"""Captioned scenes: the JSON of Karpathy's splits, and two text files per split; RSICD, RSITMD, UCM and Sydney.

A record is an image; its captions, repeated ones too, are texts `caption`, `caption_2` and so on, of which training
draws one. Common copies hold empty captions, which are left out and counted; an image without any other is rejected.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from data_modules.readers.boxes import placed
from data_modules.readers.layout import Rows, present
from data_modules.readers.satellite_layout import SatelliteLayout
from domainvl.data.labels import Label
from domainvl.data.manifest import SPLITS, Manifest, Record, Split, parse_split
from domainvl.data.names import listing
from domainvl.data.paths import inside
from domainvl.data.texts.reports import clean

PER_IMAGE = 5
"""Captions per image of the text form."""

_LEAKS = (
    "every image counts as a place of its own, because nothing says which images show the same one; splits may share "
    "places, and intervals are then too narrow"
)
_SCENE = re.compile(r"^([a-zA-Z]+)_")


@dataclass(frozen=True)
class CaptionedImage:
    """An image as a file of captions lists it. Texts stay out of the repr.

    Attributes:
        name: File, as it is listed.
        split: Where it belongs.
        row: Where it is listed, from 1.
        texts: What is said of it, as it stands there.
    """

    name: str
    split: Split
    row: int
    texts: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class SceneCaptions(SatelliteLayout):
    """Base: images with captions.

    Attributes:
        images: Folder of the pictures, relative to the root.
        scenes: Make a class of the letters in front of the first `_` of a file's name, as PriorCLIP does. Images whose
            names are numbers have no known class.
    """

    title: ClassVar[str] = "captions"
    images: str = "images"
    scenes: bool = False

    @abstractmethod
    def found(self, root: Path) -> Iterable[CaptionedImage]:
        """The images of all splits."""

    def read(self, root: Path) -> Manifest:
        """One record per image that has a caption."""
        rows, empty, captions = Rows(), 0, 0
        for image in self.found(root):
            path = inside(root, f"{self.images}/{image.name}".lstrip("/"), f"{self.title}: image {image.row}")
            texts = [text for text in map(clean, image.texts) if text]
            captions += len(image.texts)
            empty += len(image.texts) - len(texts)
            if not texts:
                rows.reject(image.row, path, f"none of its {len(image.texts)} captions says anything")
                continue
            rows.add(Record(path, path, path, split=image.split, row=image.row, texts=numbered(texts)))
        if not rows.records:
            raise ValueError(f"{self.title}: none of {len(rows.rejected)} images below {root} has a caption")
        classes, records = _with_scenes(rows.records) if self.scenes else ((), rows.records)
        said = (f"{empty} of {captions} captions are empty and left out",) if empty else ()
        return Manifest(
            self.title,
            root,
            tuple(records),
            classes,
            rejected=tuple(rows.rejected),
            warnings=(_LEAKS, *said),
        )


@dataclass(frozen=True)
class KarpathyCaptions(SceneCaptions):
    """One JSON for all splits: `images` with `filename`, `split` and `sentences`, each with its `raw` text.

    Attributes:
        file: The JSON, below the root or anywhere.
    """

    file: str = "dataset.json"

    def found(self, root: Path) -> Iterable[CaptionedImage]:
        """The entries of the file."""
        path = placed(root, self.file)
        if not path.is_file():
            there = sorted(one.name for one in path.parent.glob("*.json"))
            raise FileNotFoundError(f"{self.title}: {path} does not exist; the JSON files beside it: {listing(there)}")
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.title}: {path.name} is no JSON in UTF-8; download it again") from error
        entries = read.get("images") if isinstance(read, dict) else None
        if not isinstance(entries, list) or not entries:
            raise ValueError(f"{self.title}: {path.name} has no list `images`; is it a file with Karpathy's splits?")
        for number, entry in enumerate(entries, 1):
            yield _entry(entry, number, f"{self.title}: {path.name}: image {number}")


@dataclass(frozen=True)
class Rsicd(KarpathyCaptions):
    """RSICD."""

    title: ClassVar[str] = "RSICD"
    images: str = "RSICD_images"
    file: str = "dataset_rsicd.json"


@dataclass(frozen=True)
class Rsitmd(KarpathyCaptions):
    """RSITMD."""

    title: ClassVar[str] = "RSITMD"
    file: str = "dataset_RSITMD.json"


@dataclass(frozen=True)
class UcmCaptions(KarpathyCaptions):
    """UCM-Captions."""

    title: ClassVar[str] = "UCM-Captions"
    images: str = "imgs"


@dataclass(frozen=True)
class SydneyCaptions(KarpathyCaptions):
    """Sydney-Captions."""

    title: ClassVar[str] = "Sydney-Captions"
    images: str = "imgs"


@dataclass(frozen=True)
class CaptionLines(SceneCaptions):
    """`train_caps.txt` with five lines per image and `train_filename.txt`, the same for val and test.

    The list of names has a line per image, or a line per caption (so do the test lists of AMFMN and VSE++).

    Attributes:
        folder: Where the text files lie, relative to the root.
    """

    title: ClassVar[str] = "caption lines"
    folder: str = "."

    def found(self, root: Path) -> Iterable[CaptionedImage]:
        """The lines of the files, split by split."""
        top, splits = root / self.folder, 0
        for split, spelling in zip(SPLITS, ("train", "val", "test"), strict=True):
            caps, names = (top / f"{spelling}_{kind}.txt" for kind in ("caps", "filename"))
            if not caps.exists() and not names.exists():
                continue
            splits += 1
            yield from _of_lines(_lines(caps), _lines(names), split, f"{self.title}: {caps.name}")
        if not splits:
            raise FileNotFoundError(f"{self.title}: no train_caps.txt, val_caps.txt or test_caps.txt lies in {top}")


def numbered(texts: Sequence[str]) -> dict[str, str]:
    """Captions under the names that `data.texts.views` knows them by."""
    return {f"caption_{place}" if place > 1 else "caption": text for place, text in enumerate(texts, 1)}


def _entry(entry: Any, number: int, place: str) -> CaptionedImage:
    try:
        name, split = entry["filename"], parse_split(entry["split"])
        texts = tuple(sentence["raw"] for sentence in entry["sentences"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{place} lacks filename, split or sentences with raw texts") from error
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    if not isinstance(name, str) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{place}: filename and raw must be texts")
    return CaptionedImage(name, split, number, texts)


def _lines(path: Path) -> list[str]:
    """Lines of a file. An empty one may be an empty caption, so only the end of the file is cut off."""
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} is missing in {path.parent}; captions and file names go together")
    try:
        return path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 text; save it as UTF-8") from error


def _of_lines(captions: list[str], names: list[str], split: Split, place: str) -> Iterable[CaptionedImage]:
    if len(names) == len(captions):
        names = names[::PER_IMAGE] if _repeat(names) else []
    if len(captions) != PER_IMAGE * len(names):
        raise ValueError(
            f"{place} has {len(captions)} lines, its list of file names does not fit: give one name per {PER_IMAGE} "
            "captions, or the name of an image beside each of them"
        )
    for row, name in enumerate(names):
        first = row * PER_IMAGE
        yield CaptionedImage(name, split, first + 1, tuple(captions[first : first + PER_IMAGE]))


def _repeat(names: list[str]) -> bool:
    return len(names) % PER_IMAGE == 0 and all(name == names[row - row % PER_IMAGE] for row, name in enumerate(names))


def _with_scenes(records: Sequence[Record]) -> tuple[tuple[str, ...], list[Record]]:
    """Classes by the beginning of file names; unknown where it is no word, or that of a single image."""
    named = [_SCENE.match(Path(record.path).name) for record in records]
    words = ["" if match is None else match[1].lower() for match in named]
    counts = Counter(words)
    classes = tuple(sorted(word for word, count in counts.items() if word and count > 1))
    blank = (Label.BLANK,) * len(classes)
    labels = {word: present(classes, [word]) for word in classes}
    return classes, [
        replace(record, labels=labels.get(word, blank)) for record, word in zip(records, words, strict=True)
    ]
