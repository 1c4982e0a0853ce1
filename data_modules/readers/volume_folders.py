"""CT volumes in folders: what counts as one, and one folder per class."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from data_modules.readers.dicom_series import is_dicom
from data_modules.readers.generic import NO_PATIENTS, is_split, sub_folders
from data_modules.readers.layout import Layout, present
from data_modules.readers.volume import is_volume
from domainvl.data.manifest import Manifest, Record, parse_split
from domainvl.data.names import listing


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
        splits = {folder.name: folder for folder in sub_folders(root) if is_split(folder.name)}
        tops = splits or {"": root}
        classes = tuple(sorted({folder.name for top in tops.values() for folder in sub_folders(top)}))
        records = []
        for name, top in tops.items():
            for folder in sub_folders(top):
                labels = present(classes, [folder.name])
                for place in find_volumes(folder):
                    path = place.relative_to(root).as_posix()
                    records.append(Record(path, path, path, labels, parse_split(name) if name else None))
        if not records:
            raise ValueError(
                f"{root} has neither a table studies.csv nor folders with volumes; name a layout, or put volumes into "
                f"one folder per class. It holds: {listing(sorted(entry.name for entry in root.iterdir()))}"
            )
        return Manifest(root.name, root, tuple(records), classes, multilabel=False, warnings=(NO_PATIENTS,))
