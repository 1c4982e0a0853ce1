"""NCT-CRC-HE-100K and CRC-VAL-HE-7K, as Zenodo ships them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from data_modules.readers.layout import Layout, present
from domainvl.data.manifest import Manifest, Record, Split

NCT_CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "ADI": "adipose tissue",
        "BACK": "background",
        "DEB": "debris",
        "LYM": "lymphocytes",
        "MUC": "mucus",
        "MUS": "smooth muscle",
        "NORM": "normal colon mucosa",
        "STR": "cancer-associated stroma",
        "TUM": "colorectal adenocarcinoma epithelium",
    }
)
"""Folder to class."""


@dataclass(frozen=True)
class NctCrcHe(Layout):
    """`NCT-CRC-HE-100K/ADI/*.tif` and so on for training, `CRC-VAL-HE-7K` (50 other patients) for testing.

    Attributes:
        version: The stain-normalised pictures, or those of `NCT-CRC-HE-100K-NONORM`.
    """

    version: Literal["NCT-CRC-HE-100K", "NCT-CRC-HE-100K-NONORM"] = "NCT-CRC-HE-100K"

    def read(self, root: Path) -> Manifest:
        """The class folders of both parts as records."""
        parts: tuple[tuple[str, Split], ...] = ((self.version, "train"), ("CRC-VAL-HE-7K", "test"))
        classes = tuple(NCT_CLASSES.values())
        records = []
        for folder, split in parts:
            if not (root / folder).is_dir():
                there = sorted(entry.name for entry in root.iterdir())
                raise FileNotFoundError(f"NCT-CRC-HE: {folder} is missing in {root}; it holds {', '.join(there[:10])}")
            strange = {entry.name for entry in (root / folder).iterdir() if entry.is_dir()} - set(NCT_CLASSES)
            if strange:
                raise ValueError(f"NCT-CRC-HE: {folder} holds {min(strange)}; its folders are {', '.join(NCT_CLASSES)}")
            for short, name in NCT_CLASSES.items():
                for file in sorted((root / folder / short).glob("*.tif")):
                    path = file.relative_to(root).as_posix()
                    records.append(Record(path, path, path, present(classes, [name]), split))
        return Manifest(
            name="NCT-CRC-HE",
            root=root,
            records=tuple(records),
            classes=classes,
            multilabel=False,
            carve=0.1,
            licence="CC BY 4.0",
            warnings=(
                "the files do not say which of the 86 slides a training patch is from: validation patches share slides "
                "with training patches, so choose nothing fine by them; the test patients are others",
            ),
        )
