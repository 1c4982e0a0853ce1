"""Pictures of satellites and aeroplanes: 8-bit colour, as the public benchmarks ship them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from data_modules.readers.image import read_image
from domainvl.data.rejects import UnreadableImage

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
"""Files that count as pictures when a folder is read."""


def read_rgb(path: Path) -> Image.Image:
    """Read a picture; UnreadableImage for more than 8 bits, whose black and white only a sensor can tell."""
    try:
        with Image.open(path) as image:
            mode = image.mode
    except OSError:
        # `read_image` says what is wrong with it.
        mode = ""
    if mode.startswith(("I", "F")):
        raise UnreadableImage("it has more than 8 bits, and no picture tells what is black and white; give data.sensor")
    return read_image(path)
