"""Sensors: the names of their bands, which three make a picture, and which values are black and white.

A range belongs to a sensor and never to a tile: stretched by its own contents, a dark lake looks like bright sand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from domainvl.data.names import hint, listing


@dataclass(frozen=True)
class Sensor:
    """What the bands of a raster are.

    Attributes:
        name: What to call it.
        bands: Names of the bands, in the order in which files hold them.
        rgb: The three bands that make a picture, by their own names or by `colours`.
        low: Value that becomes black, by band.
        high: Value that becomes white, by band.
        colours: Common names of bands.
        nodata: Value that means "not seen" where files do not declare one; None for none.
    """

    name: str
    bands: list[str]
    rgb: list[str]
    low: dict[str, float]
    high: dict[str, float]
    colours: dict[str, str] = field(default_factory=dict)
    nodata: float | None = None

    def __post_init__(self) -> None:
        if len(set(self.bands)) < len(self.bands):
            raise ValueError(f"Sensor {self.name}: a band is named twice in {listing(self.bands)}")
        for name in ("low", "high"):
            missing = [band for band in self.bands if band not in getattr(self, name)]
            if missing:
                raise ValueError(f"Sensor {self.name}: {name} has no value for band {missing[0]!r}")
        self.named_bands(self.rgb)

    @classmethod
    def named(cls, name: str) -> Sensor:
        """A sensor by name, see `SENSORS`."""
        if name not in SENSORS:
            raise ValueError(
                f"Sensor: no sensor is called {name!r}{hint(name, SENSORS)} There are: {listing(SENSORS)}; or describe "
                "it: data.sensor takes name, bands, rgb, low and high"
            )
        return SENSORS[name]

    def named_bands(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """The sensor's own names of three bands."""
        if len(wanted) != 3:
            raise ValueError(
                f"Sensor {self.name}: a picture tower takes three bands, got {len(wanted)}: {listing(wanted)}"
            )
        found = []
        for band in wanted:
            own = self.colours.get(band, band)
            if own not in self.bands:
                known = [*self.bands, *self.colours]
                raise ValueError(
                    f"Sensor {self.name}: no band is called {band!r}{hint(band, known)} Bands: {listing(known)}"
                )
            found.append(own)
        return tuple(found)

    def positions(self, wanted: Sequence[str], count: int, described: Sequence[str | None]) -> list[int]:
        """Numbers (from 1) of bands in a file; ValueError with the reason when they cannot be told.

        Args:
            wanted: The sensor's names of the bands.
            count: How many bands the file has.
            described: What the file itself calls them.
        """
        if all(band in described for band in wanted):
            return [list(described).index(band) + 1 for band in wanted]
        if count == len(self.bands):
            return [self.bands.index(band) + 1 for band in wanted]
        raise ValueError(
            f"it has {count} bands without the names {', '.join(wanted)}, sensor {self.name} has {len(self.bands)}"
        )


_S2 = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"]
_S2_COLOURS = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08", "swir": "B11"}


def _sentinel2(name: str, bands: list[str], offset: float = 0.0) -> Sensor:
    # Vegetation reflects half of what is not visible; 0.3 would make all fields white there.
    white = {band: 3000.0 if band in ("B01", "B02", "B03", "B04", "B05", "B10") else 5000.0 for band in bands}
    return Sensor(
        name,
        bands,
        ["B04", "B03", "B02"],
        dict.fromkeys(bands, offset),
        {band: value + offset for band, value in white.items()},
        {colour: band for colour, band in _S2_COLOURS.items() if band in bands},
        nodata=0,
    )


def _eight_bit(name: str, bands: list[str]) -> Sensor:
    return Sensor(name, bands, ["red", "green", "blue"], dict.fromkeys(bands, 0.0), dict.fromkeys(bands, 255.0))


_LANDSAT = [f"SR_B{number}" for number in range(1, 8)]
_PLANET = ["blue", "green", "red", "nir"]

SENSORS: Mapping[str, Sensor] = {
    "sentinel2-l1c": _sentinel2("sentinel2-l1c", _S2),
    "sentinel2-l2a": _sentinel2("sentinel2-l2a", [band for band in _S2 if band != "B10"]),
    # Files of processing baseline 04.00 and later have 1000 added.
    "sentinel2-l2a-0400": _sentinel2("sentinel2-l2a-0400", [band for band in _S2 if band != "B10"], 1000.0),
    "sentinel2-10m": _sentinel2("sentinel2-10m", ["B02", "B03", "B04", "B08"]),
    # EuroSAT's files hold B8A last.
    "sentinel2-eurosat": _sentinel2("sentinel2-eurosat", [*(band for band in _S2 if band != "B8A"), "B8A"]),
    # Collection 2: reflectance is 0.0000275 DN - 0.2; black is 0, white 0.3 (0.5 from the near infrared on).
    "landsat8-l2": Sensor(
        "landsat8-l2",
        _LANDSAT,
        ["SR_B4", "SR_B3", "SR_B2"],
        dict.fromkeys(_LANDSAT, 7273.0),
        {band: 18182.0 if band < "SR_B5" else 25455.0 for band in _LANDSAT},
        {"blue": "SR_B2", "green": "SR_B3", "red": "SR_B4", "nir": "SR_B5", "swir": "SR_B6"},
        nodata=0,
    ),
    "planetscope-sr": Sensor(
        "planetscope-sr",
        _PLANET,
        ["red", "green", "blue"],
        dict.fromkeys(_PLANET, 0.0),
        {"blue": 3000.0, "green": 3000.0, "red": 3000.0, "nir": 5000.0},
        nodata=0,
    ),
    "naip": _eight_bit("naip", ["red", "green", "blue", "nir"]),
    "rgb": _eight_bit("rgb", ["red", "green", "blue"]),
}
"""Sensors by name."""
