"""A layout of satellite images: also what their bands are, where they are more than a picture."""

from __future__ import annotations

from typing import ClassVar

from data_modules.readers.layout import Layout


class SatelliteLayout(Layout):
    """Base of layouts that know their sensor."""

    sensor: ClassVar[str | None] = None
    """Name of the sensor; None for pictures of 8 bits."""
