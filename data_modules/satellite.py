"""Satellite and aerial images: tiles of georeferenced scenes, small rasters, or pictures in class folders.

A batch is that of `DataModule`; `patient` is the place, which all dates share.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader

from data_modules.readers.generic import ClassFolders
from data_modules.readers.layout import Layout
from data_modules.readers.rgb import SUFFIXES as PICTURES
from data_modules.readers.rgb import CropDecoder
from data_modules.readers.satellite_layout import SatelliteLayout
from data_modules.readers.tile_table import TileTable
from data_modules.scenes.decoder import Look, SceneDecoder, block_order, blocks_around
from data_modules.scenes.files import SUFFIXES, header, read_window
from data_modules.scenes.manifests import Placed, placed_manifest, scenes_manifest
from data_modules.scenes.map_tiles import MapTiles
from data_modules.scenes.order import BlockSampler
from data_modules.scenes.plan import ScenePlan, Tiling, read_headers
from data_modules.scenes.scene_map import MapSettings, SceneMap
from data_modules.scenes.sensors import Sensor
from data_modules.scenes.split import SpatialSplit
from data_modules.scenes.stretch import Percentiles, SensorRange, Stretch
from domainvl.data.augment import Augment
from domainvl.data.decoder import Decoder
from domainvl.data.images import ImageSet
from domainvl.data.labels import LabelPolicy, PolicyName
from domainvl.data.loader import image_loader
from domainvl.data.loading import Loading
from domainvl.data.manifest import Manifest, Record
from domainvl.data.module import DataModule
from domainvl.data.paths import existing_root
from domainvl.data.preparing import folder_manifest
from domainvl.data.preset import Preset
from domainvl.data.prompts import PromptSet
from domainvl.data.rejects import UnreadableImage
from domainvl.data.texts.views import TextViews

_SAMPLE_SENSOR = "sentinel2-10m"


class Satellite(DataModule):
    """Satellite and aerial images.

    Without a root it reads the procedural samples. With one it reads `tiles.csv` (windows of scenes), or one folder per
    class; or what its `layout` says. With a sensor, files are rasters whose bands are picked by name; without one they
    are pictures of 8 bits.

    Args:
        root: Folder that holds the images.
        layout: `TileTable` with its columns, or a public data set, for example `EuroSatMS`.
        sensor: Name of a sensor (`data_modules.scenes.sensors`) or its description; the layout's own when None.
        bands: Three bands that make the picture; the sensor's red, green and blue when None.
        stretch: What becomes black and white; the sensor's own range when None.
        nodata: Value that means "not seen" where files declare none; the sensor's when None.
        tiling: How scenes are cut, and how tiles are read.
        mix: Blocks whose tiles are mixed in training, where a split does not fit into memory.
        classes: Classes to use, in this order.
        prompts: See `DataModule`, as for all that follow.
        labels: What uncertain and blank labels count as.
        shots: Training places per class.
        seed: Seed of shots and order.
        preset: Preprocessing; the backbone's own when None.
        augment: Random changes to training images.
        split: How places are split where the data set has no split of its own.
        loading: How batches are made.
        texts: Texts that go with the images.
        predict_folder: Folder with scenes or pictures to predict, or one scene.
    """

    name = "satellite images"
    suffixes = PICTURES

    def __init__(
        self,
        root: str | None = None,
        *,
        layout: Layout | None = None,
        sensor: str | Sensor | None = None,
        bands: Sequence[str] | None = None,
        stretch: Stretch | None = None,
        nodata: float | None = None,
        tiling: Tiling = Tiling(),
        mix: int = 16,
        classes: Sequence[str] | None = None,
        prompts: PromptSet | None = None,
        labels: PolicyName | LabelPolicy = "ignore",
        shots: int | None = None,
        seed: int | None = None,
        preset: Preset | None = None,
        augment: Augment | None = None,
        split: SpatialSplit = SpatialSplit(),
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
        if layout is not None and root is None:
            raise ValueError(f"Satellite: layout {type(layout).__name__} needs the root of the data set")
        if mix < 1:
            raise ValueError(f"Satellite: mix is {mix}; give 1 block or more")
        self.root = root
        self.tiling = tiling
        self.mix = mix
        self.spatial = split
        self._layout = layout
        named = sensor
        if named is None:
            named = layout.sensor if isinstance(layout, SatelliteLayout) else _SAMPLE_SENSOR if root is None else None
        self.sensor = Sensor.named(named) if isinstance(named, str) else named
        if self.sensor is None and (bands, stretch, nodata) != (None, None, None):
            raise ValueError("Satellite: bands, stretch and nodata are about the bands of a sensor; name the sensor")
        self.bands = () if self.sensor is None else self.sensor.named_bands(bands or self.sensor.rgb)
        self._stretch = stretch or SensorRange()
        self._nodata = nodata
        self._look: Look | None = None
        self._placed: Placed | None = None
        self._folder_plan: ScenePlan | None = None
        self._map: SceneMap | None = None

    @property
    def plan(self) -> ScenePlan:
        """Where the tiles of the manifest lie."""
        _ = self.manifest
        if self._placed is None:
            raise ValueError("Satellite: these images are no tiles of scenes, so there is no plan of them")
        return self._placed.plan

    @property
    def decoder(self) -> Decoder:
        """Tiles read one by one, or pictures."""
        if self.sensor is None:
            layout = self._layout
            return layout.decoder(self.preset) if isinstance(layout, SatelliteLayout) else CropDecoder(self.preset)
        return SceneDecoder(self.preset, self.look(), self.tiling.reduce)

    def preparation_facts(self) -> dict[str, Any]:
        """See `DataModule.preparation_facts`; and the sensor, whose bands are stretched."""
        return {**super().preparation_facts(), **({} if self.sensor is None else {"sensor": self.sensor.name})}

    def look(self) -> Look:
        """What is read of the scenes."""
        if self.sensor is None:
            raise ValueError("Satellite: there is no sensor, so nothing says what the bands are; give data.sensor")
        if self._look is None:
            nodata = self.sensor.nodata if self._nodata is None else self._nodata
            ranges = self._stretch.ranges(self.sensor, self.bands, self._sampled)
            self._look = Look(self.sensor, self.bands, ranges, nodata, self.tiling.least)
        return self._look

    def default_prompts(self, multilabel: bool) -> PromptSet:
        """What the tile shows."""
        return PromptSet(["a satellite image of {}."], ["a satellite image without {}."] if multilabel else [])

    def read_manifest(self) -> Manifest:
        """The data set; tiles of scenes have places and splits."""
        if self.root is None:
            from domainvl.samples import cached

            root = cached("satellite")
        else:
            root = existing_root(self.root, "Satellite")
        layout = self._layout or (TileTable() if (root / "tiles.csv").exists() else ClassFolders())
        if isinstance(layout, TileTable) and self.sensor is None:
            raise ValueError("Satellite: tiles of scenes need data.sensor, which says what their bands are")
        manifest = layout.read(root)
        if self.sensor is None or not manifest.records or not manifest.records[0].part:
            return manifest
        self._placed = placed_manifest(manifest, self.tiling, self.spatial)
        self.rejects.note(self._placed.left_out)
        _say(f"{manifest.name}: {self._placed.assigned.summary()}")
        return self._placed.manifest

    def split_facts(self) -> Mapping[str, Any]:
        """How far training and test tiles are apart, where it is known where they lie."""
        _ = self.manifest
        return {} if self._placed is None else self._placed.assigned.facts(self.spatial)

    def read_folder(self, folder: str) -> Manifest:
        """All tiles of the scenes in a folder, or of one scene; pictures where there is no sensor."""
        if self.sensor is None:
            return folder_manifest(folder, PICTURES, "Satellite")
        root = existing_root(folder, "Satellite")
        names = [record.path for record in folder_manifest(folder, SUFFIXES, "Satellite").records]
        manifest, self._folder_plan = scenes_manifest(root, names, self.tiling, "predict")
        return manifest

    def map_scene(
        self, scene: Path, folder: Path, *, preset: Preset | None, model: str, cell: int | None, threshold: float
    ) -> SceneMap:
        """Begin, or go on with, the map of a scene; prediction gives the tiles that it lacks from now on.

        Args:
            scene: The file.
            folder: Where the map goes.
            preset: Preprocessing of the backbone; the data's own counts first.
            model: What tells the model from others.
            cell: See `MapSettings`.
            threshold: See `MapSettings`.
        """
        headers, rejected = read_headers(scene.parent, [scene.name])
        if rejected:
            raise ValueError(f"Satellite: the scene cannot be mapped: {rejected[0].reason}")
        chosen = preset if self._preset is None else self._preset
        if chosen is None:
            raise ValueError("Satellite: no preset is known; give data.preset, or a task whose backbone has one")
        look = self.look()
        try:
            look.numbers(headers[scene.name])
        except UnreadableImage as error:
            raise ValueError(f"Satellite: the scene cannot be mapped: {error}") from error
        tiles = MapTiles(scene, headers[scene.name], self.tiling, chosen, look)
        self._map = SceneMap(folder, tiles, self.classes, model, MapSettings(cell, threshold))
        return self._map

    def setup(self, stage: str) -> None:
        """See `DataModule`; a map reads its tiles as it goes."""
        if self._map is None:
            super().setup(stage)

    def predict_dataloader(self) -> DataLoader[Any]:
        """See `DataModule`; the tiles that a map lacks."""
        if self._map is None:
            return super().predict_dataloader()
        return self._map.loader(self.loading.eval_batch_size, self.loading.readers)

    def train_dataloader(self) -> DataLoader[Any]:
        """Training batches; tiles that are read from their scenes come block by block."""
        images = self._sets["train"]
        if images.pixels is not None or not self._of_scenes(images.records):
            return super().train_dataloader()
        sampler = BlockSampler(
            images,
            block_order(images.records, self.tiling),
            self._seed,
            self._rank,
            self._world,
            mix=self.mix,
            batch_size=self.loading.batch_size,
            workers=self.loading.readers,
        )
        return image_loader(images, sampler, self.loading)

    def _images(self, manifest: Manifest, positions: Sequence[int], labelled: bool = True) -> ImageSet:
        """The tiles of a set, read together with those of them that lie beside them."""
        images = super()._images(manifest, positions, labelled)
        if self._of_scenes(images.records):
            around = blocks_around(images.records, self.tiling)
            images.decoder = SceneDecoder(self.preset, self.look(), self.tiling.reduce, around)
        return images

    def _of_scenes(self, records: Sequence[Record]) -> bool:
        return self.sensor is not None and bool(records) and bool(records[0].part)

    def _sampled(self) -> Iterable[np.ndarray]:
        """Values of training tiles, for percentiles."""
        records = [record for record in self.manifest.records if record.split == "train"]
        tiles = self._stretch.tiles if isinstance(self._stretch, Percentiles) else len(records)
        sensor = Sensor.named(_SAMPLE_SENSOR) if self.sensor is None else self.sensor
        for record in records[:: max(1, len(records) // tiles)]:
            path = self.manifest.root / record.path
            try:
                one = header(path)
                box = record.part or (0, 0, one.width, one.height)
                numbers = sensor.positions(self.bands, one.count, one.descriptions)
                values, seen = read_window(path, numbers, box, (box[3], box[2]), self._nodata)  # type: ignore[arg-type]
            except (UnreadableImage, OSError, ValueError):
                # It is listed when it is read as an image.
                continue
            yield values[:, seen].astype(np.float64)


@rank_zero_only
def _say(text: str) -> None:
    print(text, file=sys.stderr)
