"""CT volumes in folders: what counts as one, and one folder per class."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from data_modules.readers.dicom_series import is_dicom
from data_modules.readers.generic import class_folders
from data_modules.readers.layout import Layout
from data_modules.readers.volume import is_volume
from domainvl.data.manifest import Manifest


def find_volumes(folder: Path) -> list[Path]:
    """Volume files below a folder, and the folders in which DICOM files lie."""
    found = []
    for place, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        files = [Path(place) / name for name in sorted(names) if not name.startswith(".") and name != "DICOMDIR"]
        volumes = [file for file in files if is_volume(file)]
        found += volumes
        if not volumes and any(is_dicom(file) for file in files):
            found.append(Path(place))
    return sorted(found)


@dataclass(frozen=True)
class VolumeFolders(Layout):
    """One folder per class, below the root or below folders named train, val and test."""

    def read(self, root: Path) -> Manifest:
        """The volumes in the class folders as records."""
        return class_folders(root, find_volumes, "a table studies.csv", "volumes", "name a layout")
