"""NIH ChestX-ray14, as the Clinical Center ships it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_modules.readers.layout import Layout, Rows, present
from data_modules.readers.table import Table, find
from domainvl.data.manifest import Manifest, Record, Split

NIH_CLASSES = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
_NONE = "No Finding"
_LISTS: tuple[tuple[str, Split], ...] = (("train_val_list.txt", "train"), ("test_list.txt", "test"))


@dataclass(frozen=True)
class ChestXray14(Layout):
    """`Data_Entry_2017*.csv`, `images_0xx/images/*.png` (or one folder `images`), and the two official lists.

    A tenth of the patients of `train_val_list.txt` (by `split`) is the validation split. Without the lists,
    patients are split by `split`.
    """

    def read(self, root: Path) -> Manifest:
        """The table joined with the lists on the image name."""
        table = Table(find(root, ["Data_Entry_2017_v2020.csv", "Data_Entry_2017*.csv"], "NIH ChestX-ray14"))
        splits = _splits(root)
        places = _places(root)
        rows = Rows()
        for number, (name, found, patient, view) in table.rows(
            "Image Index", "Finding Labels", "Patient ID", "View Position"
        ):
            path = places.get(name, f"images/{name}")
            names = [one.strip() for one in found.split("|")]
            unknown = [one for one in names if one not in NIH_CLASSES and one != _NONE]
            if unknown:
                kind = repr(unknown[0]) if unknown[0] else "an empty cell"
                rows.reject(number, path, f"Finding Labels: {kind} is none of the 14 findings")
            elif splits and name not in splits:
                rows.reject(number, path, "it is in neither train_val_list.txt nor test_list.txt")
            else:
                rows.add(
                    Record(name, path, patient, present(NIH_CLASSES, names), splits.get(name), view=view, row=number)
                )
        return Manifest(
            name="NIH ChestX-ray14",
            root=root,
            records=tuple(rows.records),
            classes=NIH_CLASSES,
            rejected=tuple(rows.rejected),
            carve=0.1,
            licence="free to use; cite Wang et al. 2017 and name the NIH Clinical Center as the source",
            warnings=(
                "RSNA Pneumonia, SIIM-ACR Pneumothorax and ChestX-Det10 are drawn from it; do not test on one what was "
                "trained on the other",
            ),
        )


def _splits(root: Path) -> dict[str, Split]:
    """Split by image name; empty without the lists."""
    splits: dict[str, Split] = {}
    missing = [name for name, _ in _LISTS if not (root / name).exists()]
    if len(missing) == len(_LISTS):
        return splits
    if missing:
        raise FileNotFoundError(f"NIH ChestX-ray14: {missing[0]} is missing in {root}, but the other list is there")
    for name, split in _LISTS:
        splits |= dict.fromkeys((root / name).read_text(encoding="utf-8").split(), split)
    return splits


def _places(root: Path) -> dict[str, str]:
    """Path by image name: the archives unpack into folders of their own."""
    folders = [*sorted(root.glob("images_*/images")), root / "images"]
    return {
        path.name: path.relative_to(root).as_posix()
        for folder in folders
        if folder.is_dir()
        for path in folder.iterdir()
        if path.suffix == ".png"
    }
