"""A picture as a tiled pyramid on disk, as scanners and their converters write it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_FACTOR = 4
_TILE = 256
Packing = Literal["jpeg", "jpeg2000"]
_CODECS: dict[Packing, dict[str, Any]] = {
    "jpeg": {"compression": "jpeg", "compressionargs": {"level": 85}, "subsampling": (2, 2)},
    "jpeg2000": {"compression": "APERIO_JP2000_RGB", "compressionargs": {"level": 60}},
}


def save_pyramid(
    path: Path, pixels: NDArray[np.uint8], mpp: float | None, *, levels: int = 2, packing: Packing = "jpeg"
) -> None:
    """Writes a plain pyramid, or for a name that ends in ``.svs`` one of Aperio's with a thumbnail and a label.

    Each level has a quarter of the pixels along a side of the one before, rounded up.

    Args:
        path: Where to.
        pixels: ``[H, W, 3]``.
        mpp: Microns per pixel; None leaves it out.
        levels: How many resolutions.
        packing: How tiles are packed. Only Aperio's files hold JPEG 2000 that every reader knows.
    """
    import tifffile

    aperio = path.suffix == ".svs"
    height, width, _ = pixels.shape
    stated: dict[str, Any] = {}
    if mpp is not None and not aperio:
        stated = {"resolution": (10000 / mpp, 10000 / mpp), "resolutionunit": "CENTIMETER"}
    text = f"Aperio Image Library v11.2.1\n{width}x{height} [0,0 {width}x{height}] ({_TILE}x{_TILE}) Q=85|AppMag = 20"
    text += "" if mpp is None else f"|MPP = {mpp:.4f}"
    with tifffile.TiffWriter(path) as tiff:
        image = Image.fromarray(pixels)
        for number in range(levels):
            side = _FACTOR**number
            level = (
                image if number == 0 else image.resize((-(-width // side), -(-height // side)), Image.Resampling.BOX)
            )
            tiff.write(
                np.asarray(level),
                tile=(_TILE, _TILE),
                photometric="rgb",
                description=text if aperio else None,
                subfiletype=int(number > 0 and not aperio),
                metadata=None,
                **stated,
                **copy.deepcopy(_CODECS[packing]),  # tifffile adds to the arguments
            )
            if aperio and number == 0:
                small = image.resize((256, max(1, 256 * height // width)), Image.Resampling.BOX)
                _strip(tiff, small, "Aperio Image Library v11.2.1\nthumbnail", 0)
        if aperio:
            _strip(tiff, _label(path.stem), "Aperio Image Library v11.2.1\nlabel", 1)


def _strip(tiff: Any, image: Image.Image, text: str, kind: int) -> None:
    tiff.write(np.asarray(image), photometric="rgb", description=text, subfiletype=kind, metadata=None)


def _label(name: str) -> Image.Image:
    """What real labels are: a sticker with a name on it, which has to stay in the file."""
    image = Image.new("RGB", (200, 120), (20, 160, 60))
    ImageDraw.Draw(image).text((20, 50), name, fill=(0, 0, 0))
    return image
