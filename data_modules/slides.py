"""Whole slides from a table or from class folders: cut into tiles, embedded once, then read as bags of features.

`domainvl.data.bags` says what a batch holds.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data_modules.readers.generic import ClassFolders
from data_modules.readers.open_slide import SUFFIXES, open_slide
from data_modules.readers.slide import SlideReader
from data_modules.readers.slide_table import SlideTable
from data_modules.readers.slide_tiles import TilePlan
from data_modules.whole_slides.checks import check_names, openable
from data_modules.whole_slides.decoder import Embedding, SlideDecoder
from data_modules.whole_slides.embedding import SlideEmbedder, SlideFiles, maker_of, stem_of
from domainvl.backbones.base import Backbone
from domainvl.cache import cache_root
from domainvl.data.bags import BagSet, thinned
from domainvl.data.embedding import Embedded
from domainvl.data.images import ImageSet
from domainvl.data.labels import LabelPolicy, PolicyName
from domainvl.data.loading import Loading
from domainvl.data.manifest import Manifest, Record
from domainvl.data.module import DataModule
from domainvl.data.paths import existing_root
from domainvl.data.prompts import PromptSet
from domainvl.data.rejects import Reject
from domainvl.data.splits import SplitRule

_TEMPLATES = (
    "a histology patch showing {}.",
    "a histology patch of {}.",
    "a histology image of {}.",
    "a histology slide with {}.",
    "a histologic section with {}.",
    "histopathology of {}.",
    "a histopathology image showing {}.",
    "a pathology slide showing {}.",
    "an h&e image of {}.",
    "an h&e image showing {}.",
    "an h&e image of tissue with {}.",
    "an h&e patch with {}.",
    "an h&e stained image of {}.",
    "an h&e stained section with {}.",
    "h&e: {}.",
    "a microscope image of {}.",
    "a microscope image with {}.",
    "a microscope image of tissue with {}.",
    "a photomicrograph of {}.",
    "a photomicrograph showing {}.",
    "{} in an h&e stained section.",
    "{}, seen under the microscope.",
)
"""As many as MI-Zero's. All name the kind of picture, which models that saw more than histology need."""
_YES_NO = (
    ["a histology patch showing {}.", "an h&e image of tissue with {}."],
    ["a histology patch showing no {}.", "an h&e image of tissue without {}."],
)


class WholeSlides(DataModule):
    """Whole slides.

    Without a root it reads the procedural samples. With one it reads `slides.csv`, or what `table` names, or one folder
    per class. Slides are embedded by the task's backbone when it first needs them, or before by
    `python -m domainvl embed RECIPE`.

    Args:
        root: Folder that holds the slides.
        table: `SlideTable` with its columns, where they have other names than those that it looks for.
        plan: How slides are cut into tiles.
        embedding: How they are embedded, and where features are kept.
        tiles: Most tiles of a slide in training, drawn anew in every step; all when None. Evaluation takes all.
        classes: See `DataModule`, as for all that follow.
        prompts: Sentences that stand for a class.
        labels: What uncertain and blank labels count as.
        shots: Training patients per class; the validation split is cut to as many, four at most.
        seed: Seed of shots and order.
        split: How patients are split.
        loading: How batches are made; `batch_size` counts slides.
        predict_folder: Folder with slides to predict.
    """

    name = "whole slides"
    suffixes = SUFFIXES
    augmentable = False

    def __init__(
        self,
        root: str | None = None,
        *,
        table: SlideTable | None = None,
        plan: TilePlan = TilePlan(),
        embedding: Embedding = Embedding(),
        tiles: int | None = 2048,
        classes: Sequence[str] | None = None,
        prompts: PromptSet | None = None,
        labels: PolicyName | LabelPolicy = "ignore",
        shots: int | None = None,
        seed: int | None = None,
        split: SplitRule = SplitRule(),
        loading: Loading = Loading(batch_size=8, eval_batch_size=4),
        predict_folder: str | None = None,
    ) -> None:
        super().__init__(
            classes=classes,
            prompts=prompts,
            labels=labels,
            shots=shots,
            seed=seed,
            split=split,
            loading=loading,
            predict_folder=predict_folder,
        )
        if table is not None and root is None:
            raise ValueError("WholeSlides: table is given without a root; give the folder that holds the slides")
        if tiles is not None and tiles < 1:
            raise ValueError(f"WholeSlides: tiles is {tiles}; give the most tiles of a slide in training, or null")
        self.root = root
        self.plan = plan
        self.embedding = embedding
        self.tiles = tiles
        self._table = table
        self._resolutions: dict[str, float] = {}
        self._encoder: tuple[Backbone, torch.device] | None = None
        self._decoder: SlideDecoder | None = None

    # What there is

    def default_prompts(self, multilabel: bool) -> PromptSet:
        """A tissue is there or not; a single class is what the slide shows."""
        return PromptSet(*_YES_NO) if multilabel else PromptSet(list(_TEMPLATES))

    def read_manifest(self) -> Manifest:
        """The data set; every slide is opened, and all that state no resolution are named at once."""
        if self.root is None:
            from domainvl.samples import cached

            root = cached("slides")
        else:
            root = existing_root(self.root, "WholeSlides")
        table = self._table or SlideTable()
        if self._table is not None or (root / table.table).exists():
            manifest = table.read(root)
            self._resolutions = table.resolutions(root)
        else:
            manifest = ClassFolders(SUFFIXES).read(root)
        return self._usable_slides(manifest)

    def read_folder(self, folder: str) -> Manifest:
        """Every slide below a folder."""
        return self._usable_slides(super().read_folder(folder))

    @property
    def predicted(self) -> Manifest:
        """The slides that are tested or predicted: those of the folder to predict, or of the data set."""
        return self._folder or self.manifest

    def slide(self, record: Record, root: Path) -> SlideReader:
        """A slide itself, for whoever draws it."""
        return open_slide(root / record.path, self._resolutions.get(record.path))

    def hashes(self) -> dict[str, str]:
        """See `DataModule.hashes`; and the tile plan."""
        return {**super().hashes(), "tiles": self.plan.digest}

    def preparation_facts(self) -> dict[str, Any]:
        """See `DataModule.preparation_facts`; the tile plan, or that features came from elsewhere."""
        return {**super().preparation_facts(), "tiles": "unsigned" if self.embedding.unsigned else self.plan.digest}

    # From slides to bags

    def embed(self, backbone: nn.Module, device: torch.device) -> Embedded:
        """See `domainvl.data.embedding.Embeds`."""
        if not isinstance(backbone, Backbone):
            raise TypeError(f"WholeSlides: slides are embedded by a Backbone, got {type(backbone).__name__}")
        if self.embedding.features is not None:
            raise ValueError(f"WholeSlides: embedding.features is {self.embedding.features}, so nothing is embedded")
        self._encoder = (backbone, device)
        began, records, decoder = time.monotonic(), self.manifest.records, self.decoder
        there = {record.path for record in records if decoder.files.features(record).exists()}
        reasons = decoder.prepare(records, self.manifest.root)
        bad = [(record, reason) for record, reason in zip(records, reasons, strict=True) if reason is not None]
        self.rejects.path = decoder.files.features_folder / "rejects.csv"
        self.rejects.add(Reject(record.row, record.path, reason) for record, reason in bad)
        self._tell_damaged(records)
        self.rejects.flush()
        self.rejects.check()
        embedder = decoder.embedder
        made, tiles = (0, 0) if embedder is None else (embedder.made, embedder.tiles)
        seconds = time.monotonic() - began
        return Embedded(decoder.files.features_folder, len(there), made, len(self.rejects), tiles, seconds)

    @property
    def decoder(self) -> SlideDecoder:
        """Features from files, embedded when they are not there yet."""
        folder = self._folder_of_files()
        if self._decoder is None or self._decoder.files.folder != folder:
            backbone, device = self._encoder or self._task_encoder()
            maker = maker_of(backbone, self.plan)
            files = SlideFiles(folder, maker, self._resolutions)
            workers = self.loading.readers
            embedder = SlideEmbedder(backbone, device, self.plan, files, self.embedding.batch_size, workers)
            self._decoder = SlideDecoder(files, embedder, self.embedding)
        return self._decoder

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Features in float32, on the device; in training at most `tiles` of every slide."""
        batch = self.decoder.finished(batch)
        training = self.trainer is not None and self.trainer.training
        return thinned(batch, self.tiles) if training and self.tiles is not None else batch

    def _usable_slides(self, manifest: Manifest) -> Manifest:
        check_names(manifest)
        if self.embedding.features is not None:
            records = tuple(replace(record, path=f"{stem_of(record)}.h5") for record in manifest.records)
            return replace(manifest, root=existing_root(self.embedding.features, "WholeSlides"), records=records)
        return openable(manifest, self._resolutions, self.loading.readers)

    def _task_encoder(self) -> tuple[Backbone, torch.device]:
        task = self.trainer.lightning_module if self.trainer is not None else None
        backbone = getattr(task, "backbone", None)
        if self.trainer is None or not isinstance(backbone, Backbone):
            raise ValueError(
                "WholeSlides: no backbone is known to embed slides by. It comes from the task when a Trainer runs; "
                "without one, call embed(backbone, device) first"
            )
        return backbone, self.trainer.strategy.root_device

    def _folder_of_files(self) -> Path:
        if self.embedding.folder is not None:
            return Path(self.embedding.folder).expanduser()
        root = self.predicted.root.resolve()
        return cache_root() / "slides" / hashlib.sha256(str(root).encode()).hexdigest()[:12]

    def _images(self, manifest: Manifest, positions: Sequence[int], labelled: bool = True) -> ImageSet:
        return BagSet(manifest, positions, self.decoder, self.policy, self.rejects, labelled)

    def _loaded(self, manifest: Manifest, positions: Sequence[int], split: str, labelled: bool = True) -> ImageSet:
        """Embed the split before anything trains; what cannot be used is left out and listed."""
        images = self._images(manifest, positions, labelled)
        reasons = self.decoder.prepare(images.records, manifest.root)
        self.rejects.add(images.reject(item, reason) for item, reason in enumerate(reasons) if reason is not None)
        self.rejects.check()
        good = [position for position, reason in zip(positions, reasons, strict=True) if reason is None]
        if not good:
            raise ValueError(f"{manifest.name}: none of the {len(positions)} {split} slides can be used")
        self._tell_damaged(images.records)
        return super()._loaded(manifest, good, split, labelled)

    def _tell_damaged(self, records: Sequence[Record]) -> None:
        damaged = self.decoder.damaged
        self.rejects.note(
            Reject(record.row, record.path, f"{damaged[record.path]} damaged tiles are left out; the slide is used")
            for record in records
            if damaged.get(record.path)
        )
