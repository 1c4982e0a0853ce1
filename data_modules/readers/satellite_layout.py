"""A layout of satellite images: also what their bands are, and how what is no raster is read."""

from __future__ import annotations

from typing import ClassVar

from data_modules.readers.layout import Layout
from data_modules.readers.rgb import CropDecoder
from domainvl.data.decoder import Decoder
from domainvl.data.preset import Preset


class SatelliteLayout(Layout):
    """Base of layouts that know their sensor."""

    sensor: ClassVar[str | None] = None
    """Name of the sensor; None for pictures of 8 bits."""

    def decoder(self, preset: Preset) -> Decoder:
        """How a record becomes pixels, where there is no sensor."""
        return CropDecoder(preset)
