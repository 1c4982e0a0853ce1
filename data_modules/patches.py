"""Histology patches from a table, from class folders, or from a public data set as it was downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from data_modules.readers.generic import ClassFolders, ImageTable
from data_modules.readers.image import SUFFIXES, read_image
from data_modules.readers.layout import Layout
from data_modules.readers.pages import PatchFiles
from domainvl.data.labels import LabelPolicy, PolicyName
from domainvl.data.loading import Loading
from domainvl.data.manifest import Manifest
from domainvl.data.module import DataModule
from domainvl.data.paths import existing_root
from domainvl.data.preset import Preset
from domainvl.data.prompts import PromptSet
from domainvl.data.splits import SplitRule
from domainvl.data.stain.augment import HistologyAugment
from domainvl.data.stain.shift import STAIN_SHIFTS, StainShift
from domainvl.data.texts.views import TextViews

TEMPLATES = (
    "a histology patch showing {}.",
    "an h&e image of tissue with {}.",
    "a microscope image of {}.",
    "h&e image of tissue: {}.",
    "a histology patch of {}.",
    "microscope image with {}.",
)
"""Prompts of patches and slides."""


class HistologyPatches(DataModule):
    """Histology patches.

    Without a root it reads the procedural samples. With one it reads `studies.csv`, or one folder per class; or what
    its `layout` says: `ImageTable` for a table with other columns, or a public data set, for example `NctCrcHe`.

    Args:
        root: Folder that holds the patches.
        layout: `ImageTable` with its columns, or a public data set; without a root, how the samples are read.
        stain: Show pictures in another stain; training pictures too.
        stain_shifts: Test under all of `STAIN_SHIFTS` beside the pictures as they are, to see what other stains cost.
        classes: Classes to use, in this order; all when None.
        prompts: See `DataModule`, as for all that follow.
        labels: What uncertain and blank labels count as.
        shots: Training patients per class.
        seed: Seed of shots and order.
        preset: Preprocessing.
        augment: Random changes to training pictures, stains among them.
        split: How patients are split.
        loading: How batches are made.
        texts: Texts that go with the pictures.
        predict_folder: Folder with pictures to predict.
    """

    name = "histology patches"
    suffixes = SUFFIXES

    def __init__(
        self,
        root: str | None = None,
        *,
        layout: Layout | None = None,
        stain: StainShift | None = None,
        stain_shifts: bool = False,
        classes: Sequence[str] | None = None,
        prompts: PromptSet | None = None,
        labels: PolicyName | LabelPolicy = "ignore",
        shots: int | None = None,
        seed: int | None = None,
        preset: Preset | None = None,
        augment: HistologyAugment | None = None,
        split: SplitRule = SplitRule(),
        loading: Loading = Loading(),
        texts: TextViews | None = None,
        predict_folder: str | None = None,
    ) -> None:
        super().__init__(
            classes=classes,
            prompts=prompts,
            labels=labels,
            shots=shots,
            seed=seed,
            preset=preset,
            augment=augment,
            split=split,
            loading=loading,
            texts=texts,
            predict_folder=predict_folder,
        )
        self.root = root
        self.stain = stain
        self.stain_shifts = stain_shifts
        self._layout = layout

    @property
    def decoder(self) -> _Stained:
        """JPEG, PNG, TIFF, BMP, and pictures that lie in h5 and npy files."""
        return _Stained(self.preset, self.stain)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """See `DataModule`; in a test also the pictures in other stains, as `image@stain NAME`."""
        shifts = STAIN_SHIFTS if self.stain_shifts and self.trainer is not None and self.trainer.testing else {}
        shown = {f"image@stain {name}": self.decoder.shifted(batch["image"], shift) for name, shift in shifts.items()}
        return super().on_after_batch_transfer(batch, dataloader_idx) | shown

    def hashes(self) -> dict[str, str]:
        """See `DataModule.hashes`; with another stain also which."""
        return super().hashes() | ({} if self.stain is None else {"stain": repr(self.stain)})

    def default_prompts(self, multilabel: bool) -> PromptSet:
        """A tissue is there or not; a single class is what the patch shows."""
        if multilabel:
            return PromptSet(list(TEMPLATES[:2]), ["a histology patch showing no {}.", "an h&e image without {}."])
        return PromptSet(list(TEMPLATES))

    def read_manifest(self) -> Manifest:
        """The data set."""
        if self.root is None:
            from domainvl.samples import cached

            root = cached("histo")
        else:
            root = existing_root(self.root, "HistologyPatches")
        if self._layout is not None:
            return self._layout.read(root)
        return ImageTable().read(root) if (root / "studies.csv").exists() else ClassFolders().read(root)


class _Stained(PatchFiles):
    """Patches, shown in another stain where one is asked for."""

    def __init__(self, preset: Preset, stain: StainShift | None) -> None:
        super().__init__(preset, read_image)
        self.stain = stain

    @property
    def digest(self) -> str:
        """See `Decoder.digest`."""
        return super().digest if self.stain is None else f"{super().digest} {self.stain}"

    def finish(self, batch: Tensor) -> Tensor:
        """See `Decoder.finish`."""
        return self.shifted(batch, self.stain)

    def shifted(self, batch: Tensor, stain: StainShift | None) -> Tensor:
        """Pixels as the tower takes them, in another stain."""
        return super().finish(batch if stain is None else stain(batch))
