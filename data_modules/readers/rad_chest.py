"""RAD-ChestCT (Duke), as it is downloaded: npz volumes without a header, labels per abnormality and place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_modules.readers.layout import LabelReader, Rows
from data_modules.readers.table import Table, find
from data_modules.readers.volume_layout import VolumeLayout
from data_modules.readers.voxels import Header
from domainvl.data.labels import Label
from domainvl.data.manifest import Manifest, Record, Split

_SPLITS: tuple[tuple[str, Split], ...] = (("imgtrain", "train"), ("imgvalid", "validate"), ("imgtest", "test"))
_SPACING = 0.8
# The authors sort slices from head to feet (dicom_numpy, reverse=True) and keep DICOM's rows and columns, which they
# require to run to the left and to the back: preprocess_volumes.py of ct-volume-preprocessing at f466a94.
_HEADER = Header((_SPACING, _SPACING, -_SPACING))


@dataclass(frozen=True)
class RadChestCT(VolumeLayout):
    """`<NoteAcc_DEID>.npz` and `img{train,valid,test}_Abnormality_and_Location_Labels.csv`.

    A class is an abnormality; it is there when it is there in any place. There are no reports.
    """

    def read(self, root: Path) -> Manifest:
        """The tables' rows as records."""
        summary = Table(find(root, ["Summary_3630.csv"], "RAD-ChestCT"))
        patients = {volume: patient for _, (volume, patient) in summary.rows("NoteAcc_DEID", "MRN_DEID")}
        folder = _folder(root)
        rows = Rows()
        classes: tuple[str, ...] | None = None
        for name, split in _SPLITS:
            table = Table(find(root, [f"{name}_Abnormality_and_Location_Labels.csv"], "RAD-ChestCT"))
            columns = [column for column in table.columns if "*" in column]
            found = tuple(dict.fromkeys(column.partition("*")[0] for column in columns))
            if classes is not None and found != classes:
                raise ValueError(f"RAD-ChestCT: {table.path.name} names other abnormalities than the training table")
            classes = found
            read = LabelReader(columns)
            for number, (volume, *cells) in table.rows("NoteAcc_DEID", *columns):
                # The tables list all 36,316 volumes; the summary lists those that were published.
                if volume not in patients:
                    continue
                path = f"{folder}{volume}.npz"
                try:
                    labels = _anywhere(columns, read(cells), classes)
                except ValueError as error:
                    rows.reject(number, path, str(error))
                    continue
                rows.add(Record(volume, path, patients[volume], labels, split, volume, row=number))
        return Manifest(
            name="RAD-ChestCT",
            root=root,
            records=tuple(rows.records),
            classes=classes or (),
            rejected=tuple(rows.rejected),
            licence="CC BY-NC-ND 4.0, no commercial use; cite Draelos et al. 2021",
        )

    def headers(self, root: Path) -> Mapping[str, Header]:
        """0.8 mm in all directions, from head to feet."""
        return {f"{_folder(root)}{file.name}": _HEADER for file in (root / _folder(root)).glob("*.npz")}


def _folder(root: Path) -> str:
    """Volumes lie in the root or in one folder below."""
    if any(root.glob("*.npz")):
        return ""
    found = sorted({file.parent.name for file in root.glob("*/*.npz")})
    return f"{found[0]}/" if found else ""


def _anywhere(columns: list[str], labels: tuple[Label, ...], classes: tuple[str, ...]) -> tuple[Label, ...]:
    there = {column.partition("*")[0] for column, label in zip(columns, labels, strict=True) if label is Label.POSITIVE}
    return tuple(Label.POSITIVE if name in there else Label.NEGATIVE for name in classes)
