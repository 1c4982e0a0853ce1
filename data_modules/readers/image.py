"""A 2D image file as 8-bit PIL image, or a stated reason why not. Never a replacement picture."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from data_modules.readers.dicom import read_dicom
from domainvl.data.rejects import UnreadableImage

_DAMAGE = (SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error, zlib.error)
"""What Pillow's decoders raise on damaged files, besides OSError."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".dcm", ".dicom")
"""Files that count as images when a folder is read."""


def read_image(path: Path) -> Image.Image:
    """Read JPEG, PNG, TIFF, BMP or DICOM as `L` or `RGB`.

    16-bit and float greys are stretched from their own minimum to their own maximum: the container says 16 bit and the
    detector gave 10 to 14, so the type's range would make most radiographs black. Transparency is laid over black, the
    background of a radiograph.

    Raises:
        UnreadableImage: The file is empty, truncated, no image, or of a kind that is not supported.
    """
    with path.open("rb") as file:
        start = file.read(132)
    if not start:
        raise UnreadableImage("the file is empty (0 bytes)")
    if start[128:132] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom"):
        return read_dicom(path)
    return read_picture(path, start)


def read_picture(source: Path | BinaryIO, start: bytes) -> Image.Image:
    """The same for anything but DICOM, also of what lies in another file; `start` is how it begins, for the error."""
    # Another library in the process may have set it, and then the missing part of a truncated file reads as grey.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(source) as image:
            image.load()
            return _eight_bit(image)
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"it is no image that Pillow knows; the file starts with {start[:8]!r}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage("its header promises more pixels than is plausible") from error
    except UnreadableImage:
        raise
    except (OSError, *_DAMAGE) as error:
        # An error of the system, not of the decoder, names the file; the list of rejects has it anyway.
        text = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UnreadableImage(f"the image is damaged: {text}") from error


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB"):
        return image.copy()
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(stretched(np.asarray(image)))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    return image.convert("L" if image.mode == "1" else "RGB")


def stretched(values: np.ndarray) -> np.ndarray:
    """Numbers of any range to 0..255 between their own minimum and maximum."""
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise UnreadableImage("it holds values that are not finite")
    low, high = values.min(), values.max()
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    return np.rint((values - low) / (high - low) * 255).astype(np.uint8)
