"""A whole-slide image by whichever reader reads it right, or a stated reason why not."""

from __future__ import annotations

from pathlib import Path

from data_modules.readers.slide import PLAUSIBLE, SlideReader
from data_modules.readers.slide_openslide import OtherSlide, vendor_of
from data_modules.readers.slide_tiff import TiffSlide, Unfit, is_tiff
from domainvl.data.rejects import UnreadableImage

SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".dcm")
"""Files that count as slides when a folder is read."""

_FAST = (None, "aperio", "generic-tiff")
"""What `TiffSlide` reads; the other formats that are TIFF inside have overlapping or missing tiles."""


def open_slide(path: Path, mpp: float | None = None, exact: bool = False) -> SlideReader:
    """Open a slide; what the file holds decides, not its name.

    Args:
        path: The file.
        mpp: Microns per pixel of level 0, where a table knows better than the file.
        exact: Average all pixels of a JPEG, also where it could be decoded at a fraction of its size.

    Raises:
        NoResolution: Neither the file nor `mpp` says how large pixels are.
        UnreadableImage: It cannot be used, with the reason.
        FileNotFoundError: It is not there.
    """
    if mpp is not None and not PLAUSIBLE[0] <= mpp <= PLAUSIBLE[1]:
        raise UnreadableImage(f"mpp is {mpp:g}; microns per pixel lie between {PLAUSIBLE[0]:g} and {PLAUSIBLE[1]:g}")
    tiff = is_tiff(path)
    vendor = vendor_of(path)
    if tiff and vendor in _FAST:
        try:
            return TiffSlide(path, mpp, exact)
        except Unfit:
            if vendor is None:
                raise UnreadableImage(
                    "it is a TIFF without tiles; save it as a tiled pyramid, for example with `vips tiffsave --tile "
                    "--pyramid`"
                ) from None
    if vendor is None:
        kind = path.suffix or "a file without an ending"
        raise UnreadableImage(f"{kind}, and no slide inside; {', '.join(SUFFIXES)} are read")
    return OtherSlide(path, mpp)
