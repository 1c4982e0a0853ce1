"""PanNuke, as Warwick ships it: three folds of .npy stacks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from data_modules.readers.layout import Layout, present
from data_modules.readers.pages import stacked
from domainvl.data.manifest import Manifest, Record, Split

_NEOPLASTIC = 0
"""Channel of the masks that numbers neoplastic nuclei."""
_BINARY = ("benign tissue", "tissue with neoplastic cells")
_SPLITS: tuple[Split, ...] = ("train", "validate", "test")


@dataclass(frozen=True)
class PanNuke(Layout):
    """`Fold 1/images/fold1/{images,types}.npy`, and `Fold 1/masks/fold1/masks.npy` where nuclei count.

    Attributes:
        label: The tissue that a patch is from (19), or whether any nucleus in it is neoplastic.
        folds: Which folds are for training, validation and testing.
    """

    label: Literal["tissue", "neoplastic"] = "tissue"
    folds: tuple[int, int, int] = (1, 2, 3)

    def __post_init__(self) -> None:
        if sorted(self.folds) != [1, 2, 3]:
            raise ValueError(f"PanNuke: folds is {self.folds}; give 1, 2 and 3 in the order train, validation, test")

    def read(self, root: Path) -> Manifest:
        """Every picture of every fold as a record."""
        names: list[tuple[str, int, str, Split]] = []
        for fold, split in zip(self.folds, _SPLITS, strict=True):
            base = f"Fold {fold}/images/fold{fold}"
            path = f"{base}/images.npy"
            for wanted in (path, f"{base}/types.npy"):
                if not (root / wanted).is_file():
                    raise FileNotFoundError(f"PanNuke: {wanted} is missing in {root}")
            labels = self._labels(root, fold)
            if len(labels) != stacked(root / path)[0]:
                raise ValueError(f"PanNuke: fold {fold} holds {stacked(root / path)[0]} pictures, {len(labels)} labels")
            names += [(path, number, label, split) for number, label in enumerate(labels)]
        classes = _BINARY if self.label == "neoplastic" else tuple(sorted({label for _, _, label, _ in names}))
        records = []
        for path, number, label, split in names:
            key = f"{path}#{number}"
            records.append(Record(key, path, key, present(classes, [label]), split, part=(number,)))
        return Manifest(
            name="PanNuke",
            root=root,
            records=tuple(records),
            classes=classes,
            multilabel=False,
            licence="CC BY-NC-SA 4.0",
            warnings=("no patient is known, so every patch counts as a patient of its own",),
        )

    def _labels(self, root: Path, fold: int) -> list[str]:
        if self.label == "tissue":
            types = np.load(root / f"Fold {fold}/images/fold{fold}/types.npy", allow_pickle=False)
            return [str(name).replace("_", " ").lower() for name in types]
        path = root / f"Fold {fold}/masks/fold{fold}/masks.npy"
        if not path.is_file():
            raise FileNotFoundError(
                f"PanNuke: {path.relative_to(root)} is missing in {root}; label: neoplastic reads it"
            )
        masks = np.load(path, mmap_mode="r", allow_pickle=False)
        return [_BINARY[int((mask[..., _NEOPLASTIC] > 0).any())] for mask in masks]
