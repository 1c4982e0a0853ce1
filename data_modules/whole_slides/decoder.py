"""From the record of a slide to its bag: features from a file, made by the recipe's own image tower or by others."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_modules.whole_slides.embedding import SlideEmbedder, SlideFiles
from domainvl.data.bags import Bag, BagDecoder
from domainvl.data.feature_file import damaged_tiles, read_features
from domainvl.data.manifest import Record
from domainvl.data.rejects import UnreadableImage


@dataclass(frozen=True)
class Embedding:
    """How slides are embedded, and where their features are kept.

    Attributes:
        folder: Where tiles and features lie, for all runs; None for a folder of DOMAINVL_CACHE/slides per data set.
        batch_size: Tiles that the image tower sees at once.
        features: Features that are there already, one NAME.h5 per slide (ours, CLAM's or TRIDENT's); slides are then
            not read and need not be there.
        unsigned: Take files in `features` that do not say which encoder made them (CLAM, TRIDENT). They must hold what
            the recipe's image tower pools; where they lack the projected features, its projection is applied to them.
    """

    folder: str | None = None
    batch_size: int = 64
    features: str | None = None
    unsigned: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"Embedding: batch_size is {self.batch_size}; it must be at least 1")
        if self.unsigned and self.features is None:
            raise ValueError("Embedding: unsigned is about files in `features`; name that folder, or leave it out")


class SlideDecoder(BagDecoder):
    """The features of slides, embedded when they are not there yet.

    Args:
        files: Where they lie.
        embedder: What makes them; None in a process that only reads.
        embedding: Settings.
        project: From what the image tower pools to the space that texts share.
        width: Numbers in what the image tower pools.
    """

    def __init__(self, files: SlideFiles, embedder: SlideEmbedder, embedding: Embedding) -> None:
        self.files = files
        self.embedder: SlideEmbedder | None = embedder
        self.embedding = embedding
        self.damaged: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes read what is there; only files without projected features need the model."""
        return self.__dict__ if self.embedding.unsigned else {**self.__dict__, "embedder": None}

    @property
    def digest(self) -> str:
        """Of the model, its preprocessing and the tile plan."""
        maker = self.files.maker
        return hashlib.sha256(f"{maker.encoder_sha} {maker.preset_sha} {maker.plan_sha}".encode()).hexdigest()[:12]

    def path(self, record: Record, root: Path) -> Path:
        """The feature file of a slide."""
        return self.files.features(record) if self.embedding.features is None else root / record.path

    def bag(self, record: Record, root: Path) -> Bag:
        """See `BagDecoder.bag`."""
        maker = None if self.embedding.unsigned else self.files.maker
        found = read_features(self.path(record, root), maker)
        deep = torch.from_numpy(found.deep).half()
        joint = self._projected(deep) if found.joint is None else torch.from_numpy(found.joint).half()
        geometry = found.places.geometry
        return Bag(
            joint,
            deep,
            torch.from_numpy(found.places.at),
            None if geometry is None else geometry.side,
            None if geometry is None else (geometry.width, geometry.height),
        )

    def bag_bytes(self, record: Record, root: Path) -> int:
        """See `BagDecoder.bag_bytes`."""
        path = self.path(record, root)
        return path.stat().st_size if path.exists() else 0

    def prepare(self, records: Sequence[Record], root: Path) -> list[str | None]:
        """See `BagDecoder.prepare`."""
        if self.embedding.features is not None or self.embedder is None:
            return [None] * len(records)
        reasons = self.embedder.embed(records, root)
        for record, reason in zip(records, reasons, strict=True):
            if reason is None:
                source = self.files.source(record, root)
                self.damaged[record.path] = damaged_tiles(self.files.features(record), self.files.maker, source) or 0
        return reasons

    @torch.inference_mode()
    def _projected(self, deep: Tensor) -> Tensor:
        if self.embedder is None:
            raise RuntimeError("SlideDecoder: features that are not projected need the model; read them where it is")
        tower = self.embedder.backbone.image
        if deep.shape[1] != tower.pooled_width:
            raise UnreadableImage(
                f"its features have {deep.shape[1]} numbers, what the recipe's image tower pools has "
                f"{tower.pooled_width}; they are of another encoder"
            )
        device = next(tower.parameters()).device
        return tower.project(deep.float().to(device)).cpu().half()
