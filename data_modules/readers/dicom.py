"""A DICOM radiograph as 8-bit grey, in the order that the standard asks for.

Stored value -> modality LUT or rescale -> VOI LUT or window -> MONOCHROME1 turned over -> 8 bit. The inversion happens
within the range that the VOI step puts out; inverting stored values with 2^bits - 1, as is often done, is wrong as soon
as there is a window.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from domainvl.data.rejects import UnreadableImage

_MAX_PIXELS = 100_000_000
_DAMAGE = (
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    OverflowError,
    TypeError,
    ValueError,
    struct.error,
)
"""What pydicom raises on damaged headers. Its texts may quote the header, so only the type is passed on."""


def read_dicom(path: Path) -> Image.Image:
    """One frame as an 8-bit image, grey or RGB.

    Raises:
        UnreadableImage: With a reason that holds nothing of the header but technical fields.
    """
    import pydicom
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        dataset = pydicom.dcmread(path)
        # Elements are parsed when they are asked for, so a damaged header may show at any of these steps.
        if "PixelData" not in dataset:
            raise UnreadableImage("the DICOM file has no pixel data")
        _check_header(dataset)
        pixels = _pixels(dataset)
        if dataset.get("SamplesPerPixel", 1) == 3:
            return _colour(dataset, pixels)
        return Image.fromarray(np.rint(display(dataset, pixels) * 255).astype(np.uint8))
    except UnreadableImage:
        raise
    except InvalidDicomError as error:
        raise UnreadableImage("it is no DICOM file: the DICM mark is missing") from error
    except (BytesLengthException, *_DAMAGE) as error:
        raise UnreadableImage(f"the DICOM header is damaged ({type(error).__name__})") from error


def display(dataset: Any, stored: NDArray[Any]) -> NDArray[np.float64]:
    """Stored values `[H, W]` to brightness in 0..1.

    The first window is taken where there are several. Without any, the range of the image itself is used.
    """
    from pydicom.pixels import apply_modality_lut

    values = apply_modality_lut(stored, dataset).astype(np.float64)
    brightness = _voi(dataset, values)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        brightness = 1 - brightness
    return brightness


def _voi(dataset: Any, values: NDArray[np.float64]) -> NDArray[np.float64]:
    lut = dataset.get("VOILUTSequence")
    if lut:
        from pydicom.pixels import apply_voi

        # A rescale may have left the integers; the table is addressed with whole numbers.
        looked_up = apply_voi(np.rint(values).astype(np.int64), dataset).astype(np.float64)
        top = float(2 ** int(lut[0].LUTDescriptor[2]) - 1)
        return np.clip(looked_up / top, 0, 1)
    center, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if center is None or width is None:
        low, high = values.min(), values.max()
        return (values - low) / (high - low) if high > low else np.zeros_like(values)
    return windowed(values, center, width, str(dataset.get("VOILUTFunction") or "LINEAR"))


def windowed(values: NDArray[np.float64], center: float, width: float, function: str) -> NDArray[np.float64]:
    """A window of DICOM PS3.3 C.11.2.1.2, to 0..1."""
    if function == "SIGMOID":
        if width <= 0:
            raise UnreadableImage(f"the DICOM window is {width:g} wide; it must be positive")
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    exact = function == "LINEAR_EXACT"
    if width <= 0 or (not exact and width < 1):
        raise UnreadableImage(f"the DICOM window is {width:g} wide; a {function} window is at least 1 wide")
    if exact:
        return np.clip((values - center) / width + 0.5, 0, 1)
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def _check_header(dataset: Any) -> None:
    photometric, samples = dataset.get("PhotometricInterpretation"), dataset.get("SamplesPerPixel", 1)
    if samples == 1 and photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnreadableImage(f"pixels of kind {photometric} with one sample are not supported")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise UnreadableImage(f"the DICOM file has {frames} frames; a radiograph has one")
    rows, columns = dataset.get("Rows"), dataset.get("Columns")
    if not rows or not columns:
        raise UnreadableImage("the DICOM header gives no Rows or Columns")
    if rows * columns > _MAX_PIXELS:
        raise UnreadableImage(f"the DICOM header promises {rows} x {columns} pixels, more than is plausible")


def _pixels(dataset: Any) -> NDArray[Any]:
    try:
        return dataset.pixel_array
    except (NotImplementedError, RuntimeError) as error:
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        known = syntax is not None and syntax.is_transfer_syntax
        name = syntax.name if known else "a transfer syntax that is not in the standard"
        raise UnreadableImage(
            f"no installed decoder reads {name}; `pip install pylibjpeg[all]` adds most of them"
        ) from error
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise UnreadableImage(f"the DICOM pixel data do not fit the header ({type(error).__name__})") from error


def _colour(dataset: Any, pixels: NDArray[Any]) -> Image.Image:
    from pydicom.pixels import convert_color_space

    space = str(dataset.get("PhotometricInterpretation"))
    if pixels.dtype != np.uint8:
        raise UnreadableImage(f"the DICOM file has colour pixels of {pixels.dtype}; 8 bit are supported")
    if space.startswith("YBR_FULL"):
        pixels = convert_color_space(pixels, space, "RGB")
    return Image.fromarray(pixels)


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    if isinstance(value, str | int | float):
        return float(value)
    return float(value[0]) if len(value) else None
