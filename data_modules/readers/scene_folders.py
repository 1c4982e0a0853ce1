"""Scene classification sets that are one folder per class: EuroSAT, RESISC45, AID, PatternNet, UC Merced."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from data_modules.readers.generic import sub_folders
from data_modules.readers.layout import present
from data_modules.readers.rgb import SUFFIXES
from data_modules.readers.satellite_layout import SatelliteLayout
from domainvl.data.manifest import Manifest, Record, Split, parse_split
from domainvl.data.names import listing

_LEAKS = (
    "there is no split of its own, so images are split at random; tiles of one place may be in training and test, "
    "which flatters all methods"
)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True)
class SceneFolders(SatelliteLayout):
    """Base: one folder per class below one of a few well-known folders, and lists of files per split beside them."""

    title: ClassVar[str]
    tops: ClassVar[tuple[str, ...]]
    """Where the class folders lie below the root, by any release; the root may be that folder itself."""
    lists: ClassVar[str] = ""
    """How lists of files are called, with {} for train, val and test; empty where nobody publishes any."""
    names: ClassVar[Mapping[str, str]] = {}
    """Class names by folder, where the folder's name is no words."""

    @property
    def pattern(self) -> str:
        """The name of the lists that are used."""
        return self.lists

    def read(self, root: Path) -> Manifest:
        """The pictures in the class folders."""
        top = next((root / name for name in self.tops if (root / name).is_dir()), root)
        folders = {folder.name: self.words(folder.name) for folder in sub_folders(top)}
        classes = tuple(sorted(folders.values()))
        splits, found = self._splits(root), []
        for name, words in folders.items():
            labels = present(classes, [words])
            for file in sorted((top / name).iterdir()):
                if file.suffix.lower() in SUFFIXES and not file.name.startswith("."):
                    path = file.relative_to(root).as_posix()
                    split = splits.get(file.stem) if splits else None
                    if split is not None or not splits:
                        found.append(Record(path, path, path, labels, split))
        if not found:
            raise ValueError(
                f"{self.title}: no picture lies in class folders below {root}; looked in {listing(self.tops)}. It "
                f"holds: {listing(sorted(entry.name for entry in root.iterdir()))}"
            )
        warnings = () if splits else (_LEAKS,)
        return Manifest(self.title, root, tuple(found), classes, multilabel=False, warnings=warnings)

    def words(self, folder: str) -> str:
        """A class as people call it."""
        known = self.names.get(folder)
        return _CAMEL.sub(" ", folder).replace("_", " ").lower() if known is None else known

    def _splits(self, root: Path) -> dict[str, Split]:
        """Split by the name of a file without its ending: the lists name `.jpg` where files are `.tif`."""
        found: dict[str, Split] = {}
        files = {name: root / self.pattern.format(name) for name in ("train", "val", "test")} if self.pattern else {}
        there = [name for name, file in files.items() if file.exists()]
        if there and len(there) < len(files):
            missing = next(name for name in files if name not in there)
            raise FileNotFoundError(f"{self.title}: {files[missing].name} is missing beside {files[there[0]].name}")
        for name in there:
            for line in files[name].read_text(encoding="utf-8").split():
                stem = Path(line).stem
                if found.setdefault(stem, parse_split(name)) != parse_split(name):
                    raise ValueError(f"{self.title}: {stem} is listed in two splits, {found[stem]} and {name}")
        return found


_EUROSAT = {
    "AnnualCrop": "annual crop land",
    "HerbaceousVegetation": "herbaceous vegetation",
    "Industrial": "industrial buildings",
    "PermanentCrop": "permanent crop land",
    "Residential": "residential buildings",
    "SeaLake": "sea or lake",
}


@dataclass(frozen=True)
class EuroSat(SceneFolders):
    """EuroSAT in RGB.

    Attributes:
        split: Which published lists are used: by longitude (`eurosat-spatial-*.txt`) or at random (`eurosat-*.txt`).
    """

    title: ClassVar[str] = "EuroSAT"
    tops: ClassVar[tuple[str, ...]] = ("EuroSAT_RGB", "2750", "EuroSAT")
    names: ClassVar[Mapping[str, str]] = _EUROSAT
    split: Literal["spatial", "random"] = "spatial"

    @property
    def pattern(self) -> str:
        """See `split`."""
        return "eurosat-spatial-{}.txt" if self.split == "spatial" else "eurosat-{}.txt"


@dataclass(frozen=True)
class EuroSatMS(EuroSat):
    """EuroSAT with 13 bands, of which `data.bands` are read."""

    title: ClassVar[str] = "EuroSAT MS"
    tops: ClassVar[tuple[str, ...]] = (
        "ds/images/remote_sensing/otherDatasets/sentinel_2/tif",
        "EuroSAT_MS",
        "EuroSATallBands",
    )
    sensor: ClassVar[str | None] = "sentinel2-eurosat"


@dataclass(frozen=True)
class Resisc45(SceneFolders):
    """NWPU-RESISC45."""

    title: ClassVar[str] = "RESISC45"
    tops: ClassVar[tuple[str, ...]] = ("NWPU-RESISC45",)
    lists: ClassVar[str] = "resisc45-{}.txt"


@dataclass(frozen=True)
class Aid(SceneFolders):
    """AID."""

    title: ClassVar[str] = "AID"
    tops: ClassVar[tuple[str, ...]] = ("AID",)


@dataclass(frozen=True)
class PatternNet(SceneFolders):
    """PatternNet."""

    title: ClassVar[str] = "PatternNet"
    tops: ClassVar[tuple[str, ...]] = ("PatternNet/images", "images")


@dataclass(frozen=True)
class UcMerced(SceneFolders):
    """UC Merced Land Use."""

    title: ClassVar[str] = "UC Merced"
    tops: ClassVar[tuple[str, ...]] = ("UCMerced_LandUse/Images", "Images")
    lists: ClassVar[str] = "uc_merced-{}.txt"
    names: ClassVar[Mapping[str, str]] = {
        "agricultural": "agricultural land",
        "baseballdiamond": "baseball diamond",
        "denseresidential": "dense residential area",
        "golfcourse": "golf course",
        "mediumresidential": "medium residential area",
        "mobilehomepark": "mobile home park",
        "parkinglot": "parking lot",
        "sparseresidential": "sparse residential area",
        "storagetanks": "storage tanks",
        "tenniscourt": "tennis court",
    }
