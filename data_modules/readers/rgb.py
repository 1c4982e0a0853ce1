"""Pictures of satellites and aeroplanes: 8-bit colour, as the public benchmarks ship them."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from PIL import Image
from torch import Tensor

from data_modules.readers.image import read_image
from domainvl.data.decoder import PictureDecoder
from domainvl.data.manifest import Record
from domainvl.data.preset import Preset
from domainvl.data.rejects import UnreadableImage

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
"""Files that count as pictures when a folder is read."""


class CropDecoder(PictureDecoder):
    """Pictures, or the box of one that a record's `part` names."""

    def __init__(self, preset: Preset) -> None:
        super().__init__(preset, read_rgb)

    def read(self, record: Record, root: Path) -> Tensor:
        """uint8 pixels `[3, S, S]`."""
        picture = read_rgb(root / record.path)
        if record.part:
            left, top, width, height = record.part
            if left + width > picture.width or top + height > picture.height:
                raise UnreadableImage(f"the box lies outside the picture of {picture.width} x {picture.height}")
            picture = picture.crop((left, top, left + width, top + height))
        return self.preset.pixels(picture)


def read_rgb(path: Path) -> Image.Image:
    """Read a picture; UnreadableImage for more than 8 bits, whose black and white only a sensor can tell."""
    check_depth(path)
    return read_image(path)


def check_depth(source: Path | BinaryIO) -> None:
    """Raise UnreadableImage for more than 8 bits; what is no picture at all passes."""
    try:
        with Image.open(source) as image:
            mode = image.mode
    except OSError:
        # Who reads it says what is wrong with it.
        mode = ""
    if mode.startswith(("I", "F")):
        raise UnreadableImage("it has more than 8 bits, and no picture tells what is black and white; give data.sensor")
