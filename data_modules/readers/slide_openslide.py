"""Every format that OpenSlide knows and that is no plain tiled TIFF: NDPI, MRXS, SCN, BIF, DICOM and more."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from data_modules.readers.slide import WHITE, Level, Pixels, SlideReader, checked_mpp, shrunk
from domainvl.data.rejects import UnreadableImage

if TYPE_CHECKING:
    from openslide import OpenSlide


def vendor_of(path: Path) -> str | None:
    """Which of OpenSlide's formats a file is; None for none."""
    import openslide

    found: str | None = openslide.OpenSlide.detect_format(str(path))
    return found


class OtherSlide(SlideReader):
    """A slide that OpenSlide reads.

    Args:
        path: The file; other files may belong to it (MRXS).
        mpp: Microns per pixel of level 0; what the file says when None.

    Raises:
        UnreadableImage: It is damaged, or has no resolution.
    """

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        import openslide

        try:
            with openslide.OpenSlide(str(path)) as slide:
                levels = tuple(
                    Level(width, height, downsample)
                    for (width, height), downsample in zip(slide.level_dimensions, slide.level_downsamples, strict=True)
                )
                stated = _mpp(slide) if mpp is None else mpp
        except openslide.OpenSlideError as error:
            raise UnreadableImage(f"OpenSlide cannot open it: {_plain(error, path)}") from error
        super().__init__(path, levels, stated)
        self._forget()

    def _forget(self) -> None:
        self._process = 0
        self._slide: OpenSlide | None = None
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes open the file themselves."""
        return {name: self.__dict__[name] for name in ("path", "levels", "mpp")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """See `__getstate__`."""
        self.__dict__.update(state)
        self._forget()

    def region(
        self, level: int, x: int, y: int, width: int, height: int, shrink: int = 1, out: Pixels | None = None
    ) -> Pixels:
        """See `SlideReader.region`."""
        import openslide

        scale = self.levels[level].downsample
        slide = self._opened()
        try:
            colours = np.asarray(slide.read_region((round(x * scale), round(y * scale)), level, (width, height)))
        except openslide.OpenSlideError as error:
            # A handle that met an error answers nothing any more.
            with self._lock:
                if self._slide is slide:
                    self._slide = None
            raise UnreadableImage(f"a tile is damaged: {_plain(error, self.path)}") from error
        pixels = colours[..., :3].copy()
        pixels[colours[..., 3] == 0] = WHITE
        return shrunk(pixels, shrink, out)

    def _opened(self) -> OpenSlide:
        import openslide

        with self._lock:
            if self._slide is None or self._process != os.getpid():
                self._slide = openslide.OpenSlide(str(self.path))
                self._process = os.getpid()
            return self._slide


def _mpp(slide: OpenSlide) -> float:
    import openslide

    stated = [slide.properties.get(name) for name in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)]
    power = slide.properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)
    more = f" (its objective is {power}, which says too little)" if power else ""
    x, y = (None if value is None else float(value) for value in stated)
    return checked_mpp(x, y, more)


def _plain(error: Exception, path: Path) -> str:
    """OpenSlide's reason without the place, which may hold a patient's number."""
    return str(error).replace(str(path), "the file")[:80]
