"""CT volumes from a table, from folders, or from a public data set; prepared once, then read from a store.

A batch is that of `DataModule` with `image` int16 `[B, D, H, W]` from the loader and float32 `[B, C, D, H, W]`, one
channel per window of the preset, on the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_modules.cxr import NORMAL
from data_modules.readers.dicom_series import is_dicom, series_files
from data_modules.readers.generic import ImageTable
from data_modules.readers.layout import Layout
from data_modules.readers.volume import SUFFIXES, is_volume, read_volume
from data_modules.readers.volume_folders import VolumeFolders, find_volumes
from data_modules.readers.volume_layout import VolumeLayout
from data_modules.readers.voxels import Header
from domainvl.cache import cache_root
from domainvl.data.images import ImageSet
from domainvl.data.labels import LabelPolicy, PolicyName
from domainvl.data.loading import Loading
from domainvl.data.manifest import Manifest, Record
from domainvl.data.module import DataModule
from domainvl.data.names import listing
from domainvl.data.paths import existing_root
from domainvl.data.preset import Preset
from domainvl.data.prompts import PromptSet
from domainvl.data.rejects import Reject
from domainvl.data.splits import SplitRule
from domainvl.data.texts.views import TextViews
from domainvl.data.volumes.decoder import Shift, VolumeDecoder
from domainvl.data.volumes.organ_decoder import OrganDecoder
from domainvl.data.volumes.organ_maps import OrganPlan, OrganSource
from domainvl.data.volumes.plan import Crop, Region, VolumePlan
from domainvl.data.volumes.preset import VolumePreset
from domainvl.data.volumes.store import Entry, VolumeStore, key_of
from domainvl.data.volumes.volume import Volume


@dataclass(frozen=True)
class Preparation:
    """How volumes are prepared, and where they are kept.

    Attributes:
        crop: What is kept of a volume: none (all of it), the body, or the lungs.
        region: `chest` refuses volumes without lungs; `any` does not ask.
        folder: Where prepared volumes lie, for all runs and users of this machine; None for DOMAINVL_CACHE/volumes.
        budget: GiB that the folder may take; what was not used for longest goes first.
        largest: GiB that one volume's voxels may take while it is read.
    """

    crop: Crop = "none"
    region: Region = "any"
    folder: str | None = None
    budget: float = 100.0
    largest: float = 4.0

    def __post_init__(self) -> None:
        if self.budget <= 0 or self.largest <= 0:
            raise ValueError(
                f"Preparation: budget is {self.budget} GiB and largest {self.largest} GiB; both must be positive"
            )

    def store(self, preset: VolumePreset) -> VolumeStore:
        """The store of what a preset needs."""
        return VolumeStore(self._root, VolumePlan.of(preset, self.crop, self.region), self.budget)

    def organ_store(self) -> VolumeStore:
        """The store of label maps; those of all presets lie in one folder."""
        return VolumeStore(self._root, OrganPlan(), self.budget)

    @property
    def _root(self) -> Path:
        return cache_root() / "volumes" if self.folder is None else Path(self.folder).expanduser()


@dataclass(frozen=True)
class VolumeFiles:
    """The volumes that a manifest's records name.

    Attributes:
        limit: Bytes that one volume's voxels may take.
        headers: What headers should say, by record path, where files have none.
    """

    limit: int
    headers: Mapping[str, Header] = field(default_factory=dict, repr=False)

    def key(self, record: Record, root: Path) -> str:
        """Over all files that make up the volume, and its stated header."""
        path = root / record.path
        if path.suffix.lower() == ".mhd":
            files = sorted(path.parent.glob(f"{path.stem}.*"))
        elif path.is_dir() or (not is_volume(path) and is_dicom(path)):
            files = series_files(path)
        else:
            files = [path]
        # A file of a series names which one of a folder is meant.
        return key_of(files, path.name, repr(self.headers.get(record.path)))

    def read(self, record: Record, root: Path) -> Volume:
        """The volume in Hounsfield units."""
        return read_volume(root / record.path, self.limit, self.headers.get(record.path))


class CTVolumes(DataModule):
    """CT volumes.

    Without a root it reads the procedural samples. With one it reads `studies.csv`, or one folder per class; or what
    its `layout` says: `ImageTable` for a table with other columns, or a public data set. Volumes are NIfTI, NRRD,
    MetaImage or npz files, or folders that hold one DICOM series.

    Args:
        root: Folder that holds the volumes.
        layout: `ImageTable` with its columns, or a public data set, for example `CtRate`.
        preparation: How volumes are prepared and where they are kept.
        organs: Label maps of organs, which batches carry as `organs`: `OrganMaps` or `HounsfieldOrgans`.
        classes: Classes to use, in this order; all but "No Finding" when None.
        prompts: See `DataModule`, as for all that follow.
        labels: What uncertain and blank labels count as.
        shots: Training patients per class.
        seed: Seed of shots and order.
        preset: Preprocessing; the backbone's own when None.
        augment: Windows at changing places of the training volumes.
        split: How patients are split.
        loading: How batches are made.
        texts: Texts that go with the volumes.
        predict_folder: Folder with volumes to predict.
    """

    name = "CT volumes"
    suffixes = SUFFIXES

    def __init__(
        self,
        root: str | None = None,
        *,
        layout: Layout | None = None,
        preparation: Preparation = Preparation(),
        organs: OrganSource | None = None,
        classes: Sequence[str] | None = None,
        prompts: PromptSet | None = None,
        labels: PolicyName | LabelPolicy = "ignore",
        shots: int | None = None,
        seed: int | None = None,
        preset: VolumePreset | None = None,
        augment: Shift | None = None,
        split: SplitRule = SplitRule(),
        loading: Loading = Loading(batch_size=8, eval_batch_size=8),
        texts: TextViews | None = None,
        predict_folder: str | None = None,
    ) -> None:
        super().__init__(
            classes=classes,
            prompts=prompts,
            labels=labels,
            shots=shots,
            seed=seed,
            preset=preset,  # type: ignore[arg-type]
            augment=augment,  # type: ignore[arg-type]
            split=split,
            loading=loading,
            texts=texts,
            predict_folder=predict_folder,
        )
        if layout is not None and root is None:
            raise ValueError(f"CTVolumes: layout {type(layout).__name__} needs the root of the data set")
        self.root = root
        self.preparation = preparation
        self.organs = organs
        self._shift = augment
        self._layout = layout
        self._headers: Mapping[str, Header] = {}
        self._known: dict[str, Entry] = {}
        self._maps: dict[str, Entry] = {}

    @property
    def preset(self) -> VolumePreset:  # type: ignore[override]
        """Preprocessing: the one given, or that of the task's backbone."""
        task = self.trainer.lightning_module if self.trainer is not None else None
        preset = self._preset if self._preset is not None else getattr(task, "preset", None)
        if not isinstance(preset, VolumePreset):
            given = "no preset" if preset is None else f"a {type(preset).__name__}, which prepares 2D pictures,"
            raise ValueError(
                f"CTVolumes: {given} is known, and a VolumePreset is needed. It comes from the task's backbone when "
                "that takes volumes; else give preset"
            )
        return preset

    @property
    def decoder(self) -> VolumeDecoder | OrganDecoder:
        """Volumes from the store, prepared when they are not there yet, with their organs where these are asked for."""
        preset = self.preset
        source = VolumeFiles(int(self.preparation.largest * 2**30), self._headers)
        margin = (0, 0, 0) if self._shift is None else self._shift.voxels
        volumes = VolumeDecoder(self.preparation.store(preset), preset, source, margin, self._known)
        if self.organs is None:
            return volumes
        return OrganDecoder(volumes, self.preparation.organ_store(), self.organs, self._maps)

    def preparation_facts(self) -> dict[str, Any]:
        """See `DataModule.preparation_facts`; and what is kept of a volume."""
        return {**super().preparation_facts(), "crop": self.preparation.crop, "region": self.preparation.region}

    @property
    def organ_names(self) -> tuple[str, ...]:
        """The organs that batches carry; number 1 is the first."""
        return () if self.organs is None else self.organs.names

    def default_prompts(self, multilabel: bool) -> PromptSet:
        """A finding is there or not; a single class is what the scan shows."""
        if multilabel:
            return PromptSet(["a CT scan showing {}."], ["a CT scan showing no {}."])
        return PromptSet(["a CT scan showing {}."])

    def read_manifest(self) -> Manifest:
        """The data set."""
        if self.root is None:
            from domainvl.samples import cached
            from domainvl.samples.ct import ORGANS

            root = cached("ct")
            layout: Layout = ImageTable(text_columns=ORGANS)
        else:
            root = existing_root(self.root, "CTVolumes")
            layout = self._layout or (ImageTable() if (root / "studies.csv").exists() else VolumeFolders())
        manifest = layout.read(root)
        if isinstance(layout, VolumeLayout):
            self._headers = layout.headers(root)
        if self._wanted is None and manifest.multilabel:
            findings = [name for name in manifest.classes if name.lower() not in NORMAL]
            manifest = manifest.with_classes(findings or manifest.classes)
        return manifest

    def read_folder(self, folder: str) -> Manifest:
        """Every volume file below a folder, and every folder with DICOM files."""
        root = existing_root(folder, "CTVolumes")
        names = [place.relative_to(root).as_posix() for place in find_volumes(root)]
        if not names:
            raise ValueError(
                f"CTVolumes: no volume lies in predict_folder {root}; looked for {listing(SUFFIXES)} and folders with "
                "DICOM files"
            )
        return Manifest("predict", root, tuple(Record(name, name, name) for name in names))

    def prepare(self, preset: Preset | VolumePreset) -> int:
        """See `DataModule.prepare`; volumes of all splits."""
        if self._preset is None:
            self._preset = preset  # type: ignore[assignment]
        positions = list(range(len(self.manifest.records)))
        return len(self._made(self.manifest, positions, f"preparing {len(positions)} volumes"))

    def _loaded(self, manifest: Manifest, positions: Sequence[int], split: str, labelled: bool = True) -> ImageSet:
        """Prepare the split's volumes before anything trains; what cannot be used is left out and listed."""
        if labelled and self.organs is not None:
            records = [manifest.records[position] for position in positions]
            if not any(self.organs.has(record, manifest.root) for record in records):
                raise ValueError(
                    f"{manifest.name}: none of the {len(records)} {split} volumes has a label map, and organs are "
                    "asked for; name organs_column of the table, or give organs.folder"
                )
        good = self._made(manifest, positions, f"preparing {len(positions)} {split} volumes")
        if not good:
            raise ValueError(f"{manifest.name}: none of the {len(positions)} {split} volumes can be used")
        return super()._loaded(manifest, good, split, labelled)

    def _made(self, manifest: Manifest, positions: Sequence[int], title: str) -> list[int]:
        """Prepare volumes; the positions of those that can be used."""
        records = [manifest.records[position] for position in positions]
        made = self.decoder.prepare(records, manifest.root, self.loading.readers, title)
        pairs = list(zip(positions, records, made, strict=True))
        self.rejects.add(Reject(record.row, record.key, entry) for _, record, entry in pairs if isinstance(entry, str))
        self.rejects.check()
        return [position for position, _, entry in pairs if not isinstance(entry, str)]
