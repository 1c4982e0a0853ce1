"""From slides to feature files: tiles are read by threads while the model looks at those before.

Every slide is one file that appears when it is whole, so whoever is killed loses the slide in hand and nothing else,
and any number of processes may work on the same slides: each takes what nobody else has locked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_modules.readers.open_slide import open_slide
from data_modules.readers.slide import SlideReader
from data_modules.readers.slide_tiles import TilePlan
from domainvl.backbones.base import Backbone
from domainvl.data.feature_file import FeatureWriter, Maker, Places, damaged_tiles
from domainvl.data.manifest import Record
from domainvl.data.preset import Preset
from domainvl.data.rejects import UnreadableImage
from domainvl.data.volumes.store import key_of
from domainvl.progress import shown

NO_TISSUE = "no tile has enough tissue"


def maker_of(backbone: Backbone, plan: TilePlan) -> Maker:
    """Who makes features: the untouched model, its preprocessing and the tile plan."""
    spec = backbone.spec()
    return Maker.of(spec.kind, spec.name, spec.weights, spec.preset, plan.digest)


def stem_of(record: Record) -> str:
    """A slide's name among the feature files: its path without the ending, folders joined by `_`."""
    return PurePosixPath(record.path).with_suffix("").as_posix().replace("/", "_")


@dataclass(frozen=True)
class SlideFiles:
    """Where the files of slides lie.

    Attributes:
        folder: Folder of all tiles and features.
        maker: Who makes the features.
        resolutions: Microns per pixel by record path, where the table states them.
    """

    folder: Path
    maker: Maker
    resolutions: Mapping[str, float]

    @property
    def features_folder(self) -> Path:
        """Folder of the features of this encoder."""
        maker = self.maker
        name = re.sub(r"[^\w.-]+", "_", maker.encoder)
        return self.folder / f"{name}-{maker.encoder_sha}-{maker.preset_sha}-{maker.plan_sha}"

    def features(self, record: Record) -> Path:
        """The features of a slide."""
        return self.features_folder / f"{stem_of(record)}.h5"

    def tiles(self, record: Record) -> Path:
        """The tiles of a slide, whatever the encoder."""
        return self.folder / f"tiles-{self.maker.plan_sha}" / f"{stem_of(record)}_patches.h5"

    def source(self, record: Record, root: Path) -> str:
        """What tells a slide's file from an earlier one of its name."""
        path = root / record.path
        inner = sorted(path.with_suffix("").glob("*")) if path.suffix.lower() == ".mrxs" else []
        return key_of([path, *inner], repr(self.resolutions.get(record.path)))


class SlideEmbedder:
    """Embeds slides by the image tower of an untouched backbone.

    Args:
        backbone: The model; moved to `device`.
        device: Where it runs.
        plan: How slides are cut into tiles.
        files: Where tiles and features are kept.
        batch_size: Tiles that the model sees at once.
        workers: Threads that read tiles.

    Attributes:
        tiles: Tiles embedded so far.
        made: Files written so far.
    """

    def __init__(
        self, backbone: Backbone, device: torch.device, plan: TilePlan, files: SlideFiles, batch_size: int, workers: int
    ) -> None:
        if not isinstance(backbone.preset, Preset):
            raise TypeError(f"SlideEmbedder: {type(backbone).__name__} takes volumes; give a backbone of pictures")
        if any(parameter.requires_grad for parameter in backbone.image.parameters()):
            raise RuntimeError(
                "SlideEmbedder: the image tower is being trained, so its features would be of no model that can be "
                "named; embed all slides before training (`python -m domainvl embed RECIPE`)"
            )
        self.backbone, self.device, self.plan, self.files = backbone, device, plan, files
        self.preset = backbone.preset
        self.batch_size = batch_size
        self.workers = max(1, workers)
        self.tiles = self.made = 0

    def embed(self, records: Sequence[Record], root: Path) -> list[str | None]:
        """Embed the slides that have no features yet; for every record the reason why it has none after that."""
        reasons: list[str | None] = [None] * len(records)
        sources: list[str] = [""] * len(records)
        todo: list[int] = []
        for number, record in enumerate(records):
            try:
                sources[number] = self.files.source(record, root)
            except FileNotFoundError:
                reasons[number] = "the file does not exist"
                continue
            if damaged_tiles(self.files.features(record), self.files.maker, sources[number]) is None:
                todo.append(number)
        if not todo:
            return reasons
        # The progress bar needs to know how many tiles there are before the first one is read.
        with ThreadPoolExecutor(self.workers) as pool:
            tries = pool.map(lambda number: self._planned(records[number], root, sources[number]), todo)
            plans = dict(zip(todo, shown(tries, len(todo), "finding tissue"), strict=True))
        reasons = [found if isinstance(found := plans.get(n), str) else reason for n, reason in enumerate(reasons)]
        jobs = {number: places for number, places in plans.items() if not isinstance(places, str)}
        total = sum(len(places.at) for places in jobs.values())

        def steps() -> Iterator[int]:
            with ThreadPoolExecutor(self.workers) as pool:
                for wait in (False, True):
                    # First what is free, then what others had in hand: they may have been killed meanwhile.
                    for number in list(jobs):
                        record, places = records[number], jobs[number]
                        yield from self._locked(pool, root, record, places, sources[number], wait)
                        damaged = damaged_tiles(self.files.features(record), self.files.maker, sources[number])
                        if damaged is not None:
                            del jobs[number]
            for number in jobs:
                reasons[number] = "none of its tiles can be read"

        self.backbone.to(self.device).eval()
        for count in shown(steps(), total, f"embedding {len(jobs)} slides", "tiles", lambda count: count):
            self.tiles += count
        return reasons

    def _planned(self, record: Record, root: Path, source: str) -> Places | str:
        try:
            slide = self._open(record, root)
            places = self.plan.planned(slide, self.files.tiles(record), source)
        except UnreadableImage as error:
            return str(error)
        except OSError as error:
            return f"the file cannot be read: {error.strerror or type(error).__name__}"
        return places if len(places.at) else NO_TISSUE

    def _open(self, record: Record, root: Path) -> SlideReader:
        return open_slide(root / record.path, self.files.resolutions.get(record.path), self.plan.exact)

    def _locked(
        self, pool: ThreadPoolExecutor, root: Path, record: Record, places: Places, source: str, wait: bool
    ) -> Iterator[int]:
        from filelock import FileLock, Timeout

        path = self.files.features(record)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.lock")
        try:
            with FileLock(lock, timeout=-1 if wait else 0):
                if damaged_tiles(path, self.files.maker, source) is None:
                    yield from self._embedded(pool, self._open(record, root), places, path, source)
                if os.name == "posix":
                    # Whoever still waits for this file finds the work done, so it may go while it is locked.
                    lock.unlink(missing_ok=True)
        except Timeout:
            return

    def _embedded(
        self, pool: ThreadPoolExecutor, slide: SlideReader, places: Places, path: Path, source: str
    ) -> Iterator[int]:
        writer = FeatureWriter(path, places, self.files.maker, source)
        try:
            for rows, good, pixels in self._batches(pool, slide, places.at):
                if good.any():
                    writer.add(rows[good], self._features(pixels[torch.from_numpy(good)]))
                yield len(rows)
            if writer.rows:
                writer.finish()
                self.made += 1
        finally:
            writer.discard()

    @torch.inference_mode()
    def _features(self, pixels: Tensor) -> dict[str, NDArray[np.float32]]:
        tower = self.backbone.image
        deep = tower.pool(tower.run(tower.embed(self.preset.normalise(pixels.to(self.device)))))
        return {"features": deep.float().cpu().numpy(), "projected": tower.project(deep).float().cpu().numpy()}

    def _batches(
        self, pool: ThreadPoolExecutor, slide: SlideReader, at: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_], Tensor]]:
        """Rows, which of them could be read, and their pixels uint8 `[B, 3, S, S]`, read one batch ahead."""
        shape = (min(self.batch_size, len(at)), *self.preset.shape)
        buffers = [torch.empty(shape, dtype=torch.uint8) for _ in range(2)]

        def begin(start: int) -> tuple[NDArray[np.int64], list[Future[bool]], Tensor]:
            rows = np.arange(start, min(start + self.batch_size, len(at)))
            buffer = buffers[start // self.batch_size % 2][: len(rows)]
            futures = [pool.submit(self._read, slide, at[row], buffer[slot]) for slot, row in enumerate(rows)]
            return rows, futures, buffer

        ahead = begin(0)
        for start in range(self.batch_size, len(at) + self.batch_size, self.batch_size):
            rows, futures, buffer = ahead
            good = np.array([future.result() for future in futures])
            if start < len(at):
                ahead = begin(start)
            yield rows, good, buffer

    def _read(self, slide: SlideReader, place: NDArray[np.int64], into: Tensor) -> bool:
        """Read one tile; a handle may be spoilt by an error elsewhere, so there is a second try."""
        for _ in range(2):
            try:
                tile = slide.read((int(place[0]), int(place[1])), self.plan.size, self.plan.mpp)
            except (UnreadableImage, OSError):
                continue
            into.copy_(self.preset.pixels(torch.from_numpy(tile).permute(2, 0, 1)))
            return True
        return False
