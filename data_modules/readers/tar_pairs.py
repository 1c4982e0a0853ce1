"""Pictures and captions in WebDataset's tar files, RS5M's among them, read where they lie.

A tar is scanned once, header by header; a picture is later read from its place in the file, so that nothing is unpacked
and any order of reading works. Members of a sample share their name up to the first dot and need not lie together. A
sample that lacks one is a counted reject, and so is what a tar that ends early has lost.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from data_modules.readers.image import read_picture
from data_modules.readers.layout import Rows
from data_modules.readers.rgb import check_depth, read_rgb
from data_modules.readers.satellite_layout import SatelliteLayout
from domainvl.data.decoder import Decoder, PictureDecoder
from domainvl.data.manifest import Manifest, Record, Split, parse_split
from domainvl.data.names import listing
from domainvl.data.preset import Preset
from domainvl.data.rejects import UnreadableImage
from domainvl.data.texts.reports import clean

_SPLIT = re.compile(r"(?:^|[-_./])(train|val|valid|validation|test)(?=[-_./])")
_MOST_TEXT = 100_000
"""Bytes of a caption; what is longer is none."""


@dataclass
class _Sample:
    """What a tar has of a sample so far: a picture as (offset, bytes), and its caption or why there is none."""

    picture: tuple[int, int] | None = None
    caption: str | None = field(default=None, repr=False)
    wrong: str = ""


@dataclass(frozen=True)
class TarPairs(SatelliteLayout):
    """Uncompressed tars of samples: a picture (`.jpg`, `.png` ...) and its caption (`.txt`, or `caption` in a `.json`).

    Attributes:
        shards: The tars, as a pattern of file names below the root.
        split: Where all of them belong; None reads train, val or test in a tar's name.
    """

    title: ClassVar[str] = "WebDataset"
    pictures: ClassVar[tuple[str, ...]] = ("jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp")
    captions: ClassVar[tuple[str, ...]] = ("txt", "caption", "text")

    shards: str = "**/*.tar"
    split: Split | None = None

    def read(self, root: Path) -> Manifest:
        """One record per whole sample."""
        shards = sorted(root.glob(self.shards))
        if not shards:
            packed = " Unpack .tar.gz to .tar: what is packed has no places." if any(root.rglob("*.tar.gz")) else ""
            there = listing(sorted(entry.name for entry in root.iterdir()))
            raise FileNotFoundError(f"{self.title}: no file {self.shards} lies below {root}.{packed} It holds: {there}")
        rows = Rows()
        for shard in shards:
            self._read(shard, shard.relative_to(root).as_posix(), rows)
        if not rows.records:
            reasons = listing(sorted({one.reason for one in rows.rejected}))
            raise ValueError(f"{self.title}: no sample of {len(shards)} tars below {root} is whole: {reasons}")
        return Manifest(self.title, root, tuple(rows.records), rejected=tuple(rows.rejected))

    def decoder(self, preset: Preset) -> Decoder:
        """Pictures that lie in tars."""
        return TarDecoder(preset)

    def _read(self, shard: Path, path: str, rows: Rows) -> None:
        split = self.split or _split(path)
        samples: dict[str, _Sample] = {}
        size = shard.stat().st_size
        try:
            with tarfile.open(shard, "r:") as tar:
                for member in tar:
                    if member.isfile():
                        self._take(tar, member, samples, size)
                _check_end(shard, tar.offset)
        except tarfile.TarError as error:
            rows.reject(0, path, f"the tar is damaged, what follows is lost: {error}")
        for number, (key, sample) in enumerate(samples.items(), 1):
            name = f"{path}/{key}"
            reason = _lack(sample)
            if reason or sample.picture is None or sample.caption is None:
                rows.reject(number, name, reason)
                continue
            texts = {"caption": sample.caption}
            rows.add(Record(name, path, name, split=split, row=number, texts=texts, part=sample.picture))

    def _take(self, tar: tarfile.TarFile, member: tarfile.TarInfo, samples: dict[str, _Sample], size: int) -> None:
        folder, _, name = member.name.rpartition("/")
        stem, _, kind = name.partition(".")
        kind = kind.lower()
        is_picture = kind in self.pictures
        if not is_picture and kind not in (*self.captions, "json"):
            return
        sample = samples.setdefault(f"{folder}/{stem}" if folder else stem, _Sample())
        if is_picture:
            if sample.picture is not None:
                sample.wrong = "it has two pictures"
            if member.offset_data + member.size > size:
                sample.wrong = "the tar ends within its picture"
            sample.picture = (member.offset_data, member.size)
            return
        try:
            found = _text(tar, member)
        except ValueError as error:
            sample.wrong = str(error)
            return
        if found is not None and (kind != "json" or sample.caption is None):
            sample.caption = found


@dataclass(frozen=True)
class Rs5m(TarPairs):
    """RS5M: `pub11-train-0000.tar` and so on, with members `.img_content`, `.caption` and `.img_name`."""

    title: ClassVar[str] = "RS5M"
    pictures: ClassVar[tuple[str, ...]] = ("img_content",)
    captions: ClassVar[tuple[str, ...]] = ("caption",)


class TarDecoder(PictureDecoder):
    """Pictures at the place in a file, offset and bytes, that a record's `part` names."""

    def __init__(self, preset: Preset) -> None:
        super().__init__(preset, read_rgb)

    def read(self, record: Record, root: Path) -> Tensor:
        """uint8 pixels `[3, S, S]`."""
        offset, size = record.part
        with (root / record.path).open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise UnreadableImage("the tar ends within its picture")
        source = io.BytesIO(data)
        check_depth(source)
        source.seek(0)
        return self.preset.pixels(read_picture(source, data[:16]))


def _check_end(shard: Path, offset: int) -> None:
    """Raise where no end of the archive follows: the standard library stops at a broken header without a word."""
    with shard.open("rb") as file:
        file.seek(offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"no header at byte {offset}")


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str | None:
    """A caption; None where a JSON has none."""
    if member.size > _MOST_TEXT:
        raise ValueError(f"its {member.name.rpartition('.')[2]} has {member.size} bytes, which is no caption")
    file = tar.extractfile(member)
    data = b"" if file is None else file.read()
    if len(data) < member.size:
        raise ValueError("the tar ends within its caption")
    try:
        text = data.decode("utf-8")
        if not member.name.lower().endswith(".json"):
            return clean(text)
        known = json.loads(text)
    except ValueError as error:
        kind = "JSON" if isinstance(error, json.JSONDecodeError) else "UTF-8 text"
        raise ValueError(f"its caption is no {kind}") from error
    said = known.get("caption") if isinstance(known, dict) else None
    return clean(said) if isinstance(said, str) else None


def _lack(sample: _Sample) -> str:
    """Why a sample cannot be used; empty where it can."""
    if sample.wrong:
        return sample.wrong
    if sample.picture is None:
        return "its picture is missing"
    if not sample.picture[1]:
        return "its picture is empty (0 bytes)"
    if sample.caption is None:
        return "its caption is missing"
    return "" if sample.caption else "its caption is empty"


def _split(path: str) -> Split | None:
    found = _SPLIT.search(path)
    return None if found is None else parse_split(found[1])
