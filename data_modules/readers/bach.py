"""BACH, as the ICIAR 2018 challenge ships it: breast biopsies in four classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_modules.readers.layout import Layout, present
from data_modules.readers.table import Table
from domainvl.data.manifest import Manifest, Record

_CLASSES = {
    "Normal": "normal breast tissue",
    "Benign": "benign breast lesion",
    "InSitu": "carcinoma in situ",
    "Invasive": "invasive carcinoma",
}


@dataclass(frozen=True)
class Bach(Layout):
    """`Photos/{Normal,Benign,InSitu,Invasive}/*.tif`, 2048 x 1536 pixels of 0.42 microns.

    Splits are made by `split`, by patient where they are known: the challenge does not ship patients, but lists of them
    are in use.

    Attributes:
        patients: CSV with columns `image` (as `b001.tif`) and `patient`, below the root or anywhere.
    """

    patients: str | None = None

    def read(self, root: Path) -> Manifest:
        """The class folders as records."""
        photos = root / "Photos" if (root / "Photos").is_dir() else root
        owners = {}
        if self.patients is not None:
            listed = Path(self.patients) if Path(self.patients).is_file() else root / self.patients
            owners = {cells[0]: cells[1] for _, cells in Table(listed).rows("image", "patient")}
        classes = tuple(_CLASSES.values())
        records = []
        for folder, name in _CLASSES.items():
            if not (photos / folder).is_dir():
                raise FileNotFoundError(f"BACH: the folder {folder} is missing in {photos}")
            for file in sorted((photos / folder).glob("*.tif")):
                if owners and file.name not in owners:
                    raise ValueError(f"BACH: {self.patients} has no row for {file.name}; complete it")
                path = file.relative_to(root).as_posix()
                records.append(Record(path, path, owners.get(file.name, path), present(classes, [name])))
        return Manifest(
            name="BACH",
            root=root,
            records=tuple(records),
            classes=classes,
            multilabel=False,
            licence="CC BY-NC-ND 4.0",
            warnings=()
            if owners
            else ("no patient is known, so pictures of one patient may be on both sides; give `patients`",),
        )
