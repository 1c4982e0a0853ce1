"""Chest X-rays from a table, from class folders, or from a public data set as it was downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from data_modules.readers.generic import ClassFolders, ImageTable
from data_modules.readers.image import SUFFIXES, read_image
from data_modules.readers.layout import Layout
from domainvl.data.augment import Augment
from domainvl.data.decoder import Decoder, PictureDecoder
from domainvl.data.labels import LabelPolicy, PolicyName
from domainvl.data.loading import Loading
from domainvl.data.manifest import Manifest
from domainvl.data.module import DataModule
from domainvl.data.names import hint, listing
from domainvl.data.paths import existing_root
from domainvl.data.preset import Preset
from domainvl.data.prompts import PromptSet
from domainvl.data.splits import SplitRule
from domainvl.data.texts.views import TextViews

NORMAL = frozenset({"no finding", "normal"})
_FRONTAL = frozenset({"pa", "ap", "frontal", "ap_horizontal", "ap axial", "ap lldy", "ap rldy", "pa lldy", "pa rldy"})
_LATERAL = frozenset({"lateral", "l", "ll", "rl", "lat", "xtable lateral", "swimmers"})


class ChestXrays(DataModule):
    """Chest X-rays.

    Without a root it reads the procedural samples. With one it reads `table`; or, when no table is named,
    `studies.csv`, or one folder per class; or a public data set when its `layout` is named.

    Args:
        root: Folder that holds the images.
        samples: Which procedural samples are read without a root: `cxr` for a few labels, `cxr-reports` for reports.
        layout: A public data set, for example `MimicCxrJpg`; then no table or column is named.
        table: CSV with one row per image, below the root or anywhere.
        image_column: See `ImageTable` for all columns.
        label_columns: One column per class.
        class_column: The column that holds an image's only class.
        patient_column: Patients.
        study_column: Studies.
        split_column: Splits; patients are split by `split` when there is none.
        view_column: Projections.
        report_column: Reports.
        findings_column: Findings sections.
        impression_column: Impression sections.
        text_columns: Further texts.
        boxes_table: Boxes with phrases.
        views: Projections to use, as the data set spells them, or `frontal` and `lateral`; all when None.
        classes: Classes to use, in this order; all but "No Finding" when None (its opposite is no finding, so it makes
            a poor prompt; name it to have it).
        prompts: See `DataModule`, as for all that follow.
        labels: What uncertain and blank labels count as.
        shots: Training patients per class.
        seed: Seed of shots and order.
        preset: Preprocessing.
        augment: Random changes to training images.
        split: How patients are split.
        loading: How batches are made.
        texts: Texts that go with the images.
        predict_folder: Folder with images to predict.
    """

    name = "chest X-rays"
    suffixes = SUFFIXES

    def __init__(
        self,
        root: str | None = None,
        *,
        samples: Literal["cxr", "cxr-reports"] = "cxr",
        layout: Layout | None = None,
        table: str | None = None,
        image_column: str | None = None,
        label_columns: Sequence[str] | None = None,
        class_column: str | None = None,
        patient_column: str | None = None,
        study_column: str | None = None,
        split_column: str | None = None,
        view_column: str | None = None,
        report_column: str | None = None,
        findings_column: str | None = None,
        impression_column: str | None = None,
        text_columns: Sequence[str] | None = None,
        boxes_table: str | None = None,
        views: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        prompts: PromptSet | None = None,
        labels: PolicyName | LabelPolicy = "ignore",
        shots: int | None = None,
        seed: int | None = None,
        preset: Preset | None = None,
        augment: Augment | None = None,
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
        columns = {
            "image_column": image_column,
            "label_columns": label_columns,
            "class_column": class_column,
            "patient_column": patient_column,
            "study_column": study_column,
            "split_column": split_column,
            "view_column": view_column,
            "report_column": report_column,
            "findings_column": findings_column,
            "impression_column": impression_column,
            "text_columns": text_columns,
            "boxes_table": boxes_table,
        }
        named = [name for name, value in {"table": table, **columns}.items() if value is not None]
        if named and layout is not None:
            raise ValueError(
                f"ChestXrays: {named[0]} is given, but layout {type(layout).__name__} knows its tables and columns; "
                "leave one of the two out"
            )
        if named and root is None:
            raise ValueError(f"ChestXrays: {named[0]} is given without a root; give the folder that holds the images")
        if layout is not None and root is None:
            raise ValueError(f"ChestXrays: layout {type(layout).__name__} needs the root of the data set")
        self.root = root
        self.samples = samples
        self.views = views
        self._layout = layout
        self._table = ImageTable(table or "studies.csv", **columns) if named else None  # type: ignore[arg-type]

    @property
    def decoder(self) -> Decoder:
        """JPEG, PNG, TIFF, BMP and DICOM."""
        return PictureDecoder(self.preset, read_image)

    def default_prompts(self, multilabel: bool) -> PromptSet:
        """A finding is there or not; a single class is what the picture shows."""
        if multilabel:
            return PromptSet(["a chest x-ray showing {}."], ["a chest x-ray showing no {}."])
        return PromptSet(["a chest x-ray showing {}."])

    def read_manifest(self) -> Manifest:
        """The data set with the views asked for."""
        if self.root is None:
            from domainvl.samples import cached

            root = cached(self.samples)
        else:
            root = existing_root(self.root, "ChestXrays")
        manifest = self._chosen(root).read(root)
        if self.views is not None:
            manifest = with_views(manifest, self.views)
        if self._wanted is None and manifest.multilabel:
            findings = [name for name in manifest.classes if name.lower() not in NORMAL]
            manifest = manifest.with_classes(findings or manifest.classes)
        return manifest

    def _chosen(self, root: Path) -> Layout:
        if self._layout is not None:
            return self._layout
        if self._table is not None:
            return self._table
        return ImageTable() if (root / "studies.csv").exists() else ClassFolders()


def with_views(manifest: Manifest, views: Sequence[str]) -> Manifest:
    """Only images of these projections."""
    there = sorted({record.view for record in manifest.records if record.view})
    wanted: set[str] = set()
    for view in views:
        folded = view.lower()
        group = {"frontal": _FRONTAL, "lateral": _LATERAL}.get(folded, frozenset({folded}))
        matching = {name for name in there if name.lower() in group}
        if not matching:
            raise ValueError(f"{manifest.name}: no image has view {view!r}{hint(view, there)} Views: {listing(there)}")
        wanted |= matching
    return replace(manifest, records=tuple(record for record in manifest.records if record.view in wanted))
