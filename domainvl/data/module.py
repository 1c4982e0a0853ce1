"""The base of all data modules: from a manifest to batches.

A batch is a dict:

    image    uint8 `[B, 3, S, S]` from the loader; float32, augmented (training) and normalised once on the device
    label    long `[B]`, or float `[B, C]` of 0 and 1 (multi-label); not there when nothing is known (predict)
    valid    bool `[B, C]`, False where a label is ignored (multi-label only)
    index    long `[B]`, position in `DataModule.manifest.records`
    view     long `[B]`, version of the image (training only, where there are finitely many: `Augment.views`)
    id       list of B image names
    patient  list of B patients
"""

from __future__ import annotations

import os
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader

from domainvl.data.augment import Augment
from domainvl.data.fewshot import check_shots, draw
from domainvl.data.images import ImageLoader, ImageSet, Reader, processors
from domainvl.data.labels import LabelPolicy, PolicyName
from domainvl.data.manifest import Manifest, Record
from domainvl.data.names import listing
from domainvl.data.paths import existing_root
from domainvl.data.preset import Preset
from domainvl.data.prompts import PromptSet
from domainvl.data.rejects import Rejects
from domainvl.data.sampler import EvalSampler, TrainSampler
from domainvl.data.splits import assigned, check_disjoint, check_fractions, split_hash
from domainvl.data.views import Pictures, augmented

_LICENCES_SHOWN: set[str] = set()


class DataModule(LightningDataModule, ABC):
    """Base of all data modules. Sub-classes say where a data set comes from and how one of its files is read.

    Args:
        classes: Classes to use, in this order; all of the data set's when None.
        prompts: Sentences that stand for a class; the domain's default when None.
        labels: What uncertain and blank labels count as: a policy, or the name of one.
        shots: Training patients per class; None for all data.
        seed: Seed of shots and order; None for the run's (PL_GLOBAL_SEED), or 0.
        split_seed: Seed of the patient split where the data set has none. Apart from `seed`, so that several seeds
            are compared on the same test patients.
        split_fractions: Shares of train, validate and test patients in such a split.
        preset: Preprocessing; the backbone's own when None.
        augment: Random changes to training images; None for none.
        batch_size: Images per training batch and process.
        eval_batch_size: Images per batch elsewhere.
        drop_last: Leave the last, smaller training batch out, if there is at least one full one (as Dassl does).
        workers: Processes or threads that read images; None for one per core, four at most.
        memory: GiB that one split may take in memory. What fits is read once, what does not is read every epoch.
        reject_share: Largest share of rows that may be unusable before the run stops.
        predict_folder: Folder with images to predict, labels not needed; the test split when None.
    """

    name: str = "data"
    suffixes: tuple[str, ...] = (".jpg", ".jpeg", ".png")
    """What counts as an image in a folder."""

    def __init__(
        self,
        *,
        classes: Sequence[str] | None = None,
        prompts: PromptSet | None = None,
        labels: PolicyName | LabelPolicy = "ignore",
        shots: int | None = None,
        seed: int | None = None,
        split_seed: int = 0,
        split_fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
        preset: Preset | None = None,
        augment: Augment | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 128,
        drop_last: bool = True,
        workers: int | None = None,
        memory: float = 2.0,
        reject_share: float = 0.01,
        predict_folder: str | None = None,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        check_shots(shots, owner)
        check_fractions(split_fractions, owner)
        for argument, value in {"batch_size": batch_size, "eval_batch_size": eval_batch_size}.items():
            if value < 1:
                raise ValueError(f"{owner}: {argument} is {value}; it must be at least 1")
        if workers is not None and workers < 0:
            raise ValueError(f"{owner}: workers is {workers}; give 0 (read in the main process), more, or null")
        self._wanted = None if classes is None else list(classes)
        self._prompts = prompts
        self.policy = LabelPolicy.named(labels) if isinstance(labels, str) else labels
        self.shots = shots
        self.seed = seed
        self.split_seed = split_seed
        self.split_fractions = split_fractions
        self._preset = preset
        self.augment = augment
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.drop_last = drop_last
        self.workers = min(4, processors()) if workers is None else workers
        self.memory = memory
        self.rejects = Rejects(reject_share)
        self.predict_folder = predict_folder
        self._manifest: Manifest | None = None
        self._folder: Manifest | None = None
        self._adopted: tuple[list[str], bool] | None = None
        self._sets: dict[str, ImageSet] = {}
        self._drawn: list[int] | None = None

    @abstractmethod
    def read_manifest(self) -> Manifest:
        """The data set as it lies on disk, splits where it has its own."""

    @property
    @abstractmethod
    def reader(self) -> Reader:
        """Function that turns one file into a picture."""

    @abstractmethod
    def default_prompts(self, multilabel: bool) -> PromptSet:
        """Prompts for users who give none."""

    @property
    def manifest(self) -> Manifest:
        """The data set with classes chosen, duplicates out and splits assigned and checked."""
        if self._manifest is None:
            self._manifest = self._prepared(self.read_manifest())
        return self._manifest

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of labels."""
        return list(self._adopted[0] if self._adopted else self.manifest.classes)

    @property
    def multilabel(self) -> bool:
        """Whether an image may show several classes at once."""
        return self._adopted[1] if self._adopted else self.manifest.multilabel

    @property
    def prompts(self) -> PromptSet:
        """Sentences that stand for a class."""
        prompts = self._prompts or self.default_prompts(self.multilabel)
        if self.multilabel and not prompts.negatives:
            raise ValueError(
                f"{type(self).__name__}: the labels are multi-label, so every class needs a sentence that says it is "
                "absent; add prompts.negatives, for example ['no {}']"
            )
        return prompts

    @property
    def preset(self) -> Preset:
        """Preprocessing: the one given, or that of the task's backbone."""
        if self._preset is not None:
            return self._preset
        task = self.trainer.lightning_module if self.trainer is not None else None
        preset = getattr(task, "preset", None)
        if not isinstance(preset, Preset):
            raise ValueError(
                f"{type(self).__name__}: no preset is known. It comes from the task's backbone when a Trainer runs; "
                "without one, give preset=backbone.preset"
            )
        return preset

    def adopt(self, classes: Sequence[str], multilabel: bool, prompts: PromptSet | None = None) -> None:
        """Take classes and prompts from a saved adapter, so that predicting a folder needs no training data."""
        self._wanted = list(classes)
        self._adopted = (list(classes), multilabel)
        if prompts is not None:
            self._prompts = prompts
        self._manifest = None
        self._sets.clear()

    def hashes(self) -> dict[str, str]:
        """What was split how: `split`, and `shots` when only some of the training images are used."""
        hashes = {"split": split_hash(self.manifest.records)}
        if self._drawn is not None:
            hashes["shots"] = split_hash(self.manifest.records[position] for position in self._drawn)
        return hashes

    def setup(self, stage: str) -> None:
        """Read tables, draw shots, read images that fit into memory."""
        if self.trainer is not None and self.rejects.path is None:
            name = f"rejects.{self._rank}.csv" if self._rank else "rejects.csv"
            self.rejects.path = Path(self.trainer.default_root_dir) / name
        # Lightning hands over an enum that equals its string and prints as something else.
        stage = getattr(stage, "value", stage)
        if stage == "fit":
            self._setup_fit()
        elif stage == "predict" and self.predict_folder is not None:
            self._folder = self._read_folder(self.predict_folder)
            positions = list(range(len(self._folder.records)))
            self._sets["predict"] = self._loaded(self._folder, positions, "predict", labelled=False)
        else:
            split = "test" if stage == "predict" else stage
            self._sets[stage] = self._loaded(self.manifest, self._nonempty(split), split)
        self.rejects.flush()

    def train_dataloader(self) -> DataLoader[Any]:
        """Training batches; images are not augmented yet."""
        images = self._sets["train"]
        sampler = TrainSampler(images, self._seed, self._rank, self._world)
        drop = self.drop_last and len(sampler) >= self.batch_size
        return self._loader(images, sampler, self.batch_size, drop)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Validation batches; an empty list when the data set has no validation split."""
        images = self._sets.get("validate")
        return [] if images is None else self._eval_loader(images)

    def test_dataloader(self) -> DataLoader[Any]:
        """Test batches."""
        return self._eval_loader(self._sets["test"])

    def predict_dataloader(self) -> DataLoader[Any]:
        """Batches of the folder to predict, or of the test split."""
        return self._eval_loader(self._sets["predict"])

    def support_batches(self, view: int, device: torch.device) -> Iterator[dict[str, Any]]:
        """All training images once, in order, prepared as for training; `view` seeds the augmentation."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed * 1_000_003 + view)
            for batch in self._eval_loader(self._sets["train"]):
                pixels = batch["image"].to(device)
                pixels = pixels if self.augment is None else self.augment(pixels)
                moved = {key: value.to(device) for key, value in batch.items() if isinstance(value, Tensor)}
                yield {**batch, **moved, "image": self.preset.normalise(pixels)}

    def validation_batches(self, device: torch.device) -> Iterator[dict[str, Any]]:
        """All validation images once, in order, not augmented; every process sees all of them."""
        if "validate" not in self._sets:
            raise ValueError(
                f"{type(self).__name__}: there is no validation split to choose anything on; give split_fractions a "
                "share for it, or switch the choice off"
            )
        for batch in self._eval_loader(self._sets["validate"]):
            moved = {key: value.to(device) for key, value in batch.items() if isinstance(value, Tensor)}
            yield {**batch, **moved, "image": self.preset.normalise(moved["image"])}

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Augment (training only) and normalise, on the device."""
        if self.trainer is not None and self.trainer.training:
            batch = augmented(batch, self.augment, self._seed, self.trainer.current_epoch)
        return {**batch, "image": self.preset.normalise(batch["image"])}

    def pictures(self) -> Pictures | None:
        """The training pictures, where they are finitely many and in memory."""
        return Pictures.of(self._sets["train"], self.augment, self._seed)

    def _prepared(self, manifest: Manifest) -> Manifest:
        self._tell(manifest)
        rows = manifest.rows
        manifest = manifest.without_duplicates()
        self.rejects.total += rows
        self.rejects.add(manifest.rejected)
        self.rejects.check()
        if not manifest.records:
            raise ValueError(f"{manifest.name}: {manifest.root} holds no image that can be used")
        manifest = assigned(manifest, self.split_fractions, self.split_seed)
        check_disjoint(manifest)
        if self._adopted is not None and self._adopted[1] != manifest.multilabel:
            kinds = ("one label per image", "several labels per image")
            raise ValueError(
                f"{manifest.name}: this data set has {kinds[manifest.multilabel]}, the adapter was trained with "
                f"{kinds[self._adopted[1]]}; use data of the same kind"
            )
        if self._wanted is not None:
            manifest = manifest.with_classes(self._wanted)
        _check_some_exist(manifest)
        return manifest

    def _setup_fit(self) -> None:
        train = self._nonempty("train")
        validate = self.manifest.positions("validate")
        if self.shots is not None:
            self._setup_shots(train, validate, self.shots)
            return
        self._sets["train"] = self._loaded(self.manifest, train, "train")
        if validate:
            self._sets["validate"] = self._loaded(self.manifest, validate, "validate")

    def _setup_shots(self, train: list[int], validate: list[int], shots: int) -> None:
        """Draw, read what was drawn, and draw again for what cannot be read, until k is full."""
        pixels: dict[int, Tensor] = {}
        unreadable: set[int] = set()
        while True:
            drawn = draw(self.manifest, train, validate, shots, self._seed, self.policy, unreadable)
            fresh = [position for part in drawn for position in part if position not in pixels]
            if not fresh:
                break
            images = self._images(self.manifest, fresh)
            unreadable.update(images.preload(self.workers, "reading the drawn images"))
            pixels.update(images.loaded())
            self.rejects.check()
        self._drawn = drawn[0]
        for split, positions in zip(("train", "validate"), drawn, strict=True):
            if positions:
                self._sets[split] = self._images(self.manifest, positions)
                self._sets[split].pixels = torch.stack([pixels[position] for position in positions])

    def _images(self, manifest: Manifest, positions: Sequence[int], labelled: bool = True) -> ImageSet:
        return ImageSet(manifest, positions, self.preset, self.reader, self.policy, self.rejects, labelled)

    def _loaded(self, manifest: Manifest, positions: Sequence[int], split: str, labelled: bool = True) -> ImageSet:
        images = self._images(manifest, positions, labelled)
        if images.bytes() <= self.memory * 2**30:
            images.preload(self.workers, f"reading {len(images)} {split} images")
            self.rejects.check()
            if not len(images):
                raise ValueError(f"{manifest.name}: none of the {len(positions)} {split} images can be read")
        return images

    def _read_folder(self, folder: str) -> Manifest:
        root = existing_root(folder, type(self).__name__)
        paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in self.suffixes and path.is_file())
        if not paths:
            raise ValueError(
                f"{type(self).__name__}: no image lies in predict_folder {root}; looked for {', '.join(self.suffixes)}"
            )
        names = [path.relative_to(root).as_posix() for path in paths]
        self.rejects.total += len(names)
        return Manifest("predict", root, tuple(Record(name, name, name) for name in names))

    def _nonempty(self, split: str) -> list[int]:
        positions = self.manifest.positions(split)  # type: ignore[arg-type]
        if not positions:
            counts = (f"{name} {count}" for name, count in self.manifest.counts().items())
            raise ValueError(
                f"{self.manifest.name}: the {split} split is empty; images per split: {listing(counts)}. Check the "
                "split column and which classes and views are asked for"
            )
        return positions

    def _eval_loader(self, images: ImageSet) -> DataLoader[Any]:
        return self._loader(images, EvalSampler(images, self._rank, self._world), self.eval_batch_size, False)

    def _loader(self, images: ImageSet, sampler: TrainSampler, size: int, drop_last: bool) -> DataLoader[Any]:
        workers = self.workers
        if images.pixels is not None:
            workers = 0
            # Lightning asks for workers here, which would only copy what is in memory already.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        return ImageLoader(
            images,
            batch_size=size,
            sampler=sampler,
            drop_last=drop_last,
            collate_fn=images.collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    @property
    def _seed(self) -> int:
        return int(os.environ.get("PL_GLOBAL_SEED", "0")) if self.seed is None else self.seed

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer is not None else 0

    @property
    def _world(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

    @rank_zero_only
    def _tell(self, manifest: Manifest) -> None:
        if manifest.licence and manifest.name not in _LICENCES_SHOWN:
            _LICENCES_SHOWN.add(manifest.name)
            print(f"{manifest.name}: {manifest.licence}", file=sys.stderr)
        for text in manifest.warnings:
            warnings.warn(f"{manifest.name}: {text}", stacklevel=2)


def _check_some_exist(manifest: Manifest) -> None:
    """A wrong root should say so, not fail image by image."""
    probe = [record.path for record in manifest.records[:100]]
    if any((manifest.root / path).exists() for path in probe):
        return
    top, below, _ = probe[0].partition("/")
    raise FileNotFoundError(
        f"{manifest.name}: none of the first {len(probe)} images exists below {manifest.root}"
        f"{f', which should hold the folder {top!r}' if below else ''}; give the root that the paths in the table are "
        "relative to"
    )
