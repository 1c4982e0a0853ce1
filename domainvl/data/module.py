"""The base of all data modules: from a manifest to batches.

A batch is a dict:

    image    `[B, ...]` as the decoder reads it (uint8 `[B, 3, S, S]` for pictures) from the loader; float32, augmented
             (training) and normalised once on the device
    label    long `[B]`, or float `[B, C]` of 0 and 1 (multi-label); not there when nothing is known (predict)
    valid    bool `[B, C]`, False where a label is ignored (multi-label only)
    index    long `[B]`, position in `DataModule.manifest.records`
    view     long `[B]`, version of the image (training only, where there are finitely many: `Augment.views`)
    id       list of B image names
    patient  list of B patients
"""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from domainvl.data.augment import Augment
from domainvl.data.decoder import Decoder
from domainvl.data.drawing import drawn_sets
from domainvl.data.fewshot import check_shots
from domainvl.data.images import ImageLoader, ImageSet
from domainvl.data.labels import LabelPolicy, PolicyName
from domainvl.data.loading import Loading
from domainvl.data.manifest import Manifest
from domainvl.data.preparing import Adopted, folder_manifest, nonempty, prepared
from domainvl.data.preset import Preset
from domainvl.data.prompts import PromptSet
from domainvl.data.rejects import Rejects
from domainvl.data.sampler import EvalSampler, TrainSampler
from domainvl.data.splits import SplitRule, split_hash
from domainvl.data.views import Pictures, augmented


class DataModule(LightningDataModule, ABC):
    """Base of all data modules. Sub-classes say where a data set comes from and how one of its files is read.

    Args:
        classes: Classes to use, in this order; all of the data set's when None.
        prompts: Sentences that stand for a class; the domain's default when None.
        labels: What uncertain and blank labels count as: a policy, or the name of one.
        shots: Training patients per class; None for all data.
        seed: Seed of shots and order; None for the run's (PL_GLOBAL_SEED), or 0.
        preset: Preprocessing; the backbone's own when None.
        augment: Random changes to training images; None for none.
        split: How patients are split where the data set has no split of its own.
        loading: How batches are made.
        predict_folder: Folder with images to predict, labels not needed; the test split when None.
    """

    name: str = "data"
    suffixes: tuple[str, ...] = (".jpg", ".jpeg", ".png")
    """How the names of images in a folder end, lower case."""
    augmentable: bool = True
    """Whether `Augment`, which changes 2D pictures in 0..255, applies to what the decoder reads."""

    def __init__(
        self,
        *,
        classes: Sequence[str] | None = None,
        prompts: PromptSet | None = None,
        labels: PolicyName | LabelPolicy = "ignore",
        shots: int | None = None,
        seed: int | None = None,
        preset: Preset | None = None,
        augment: Augment | None = None,
        split: SplitRule = SplitRule(),
        loading: Loading = Loading(),
        predict_folder: str | None = None,
    ) -> None:
        super().__init__()
        check_shots(shots, type(self).__name__)
        if augment is not None and not self.augmentable:
            raise ValueError(
                f"{type(self).__name__}: augment changes 2D pictures, which this does not read; leave it null"
            )
        self._wanted = None if classes is None else list(classes)
        self._prompts = prompts
        self.policy = LabelPolicy.named(labels) if isinstance(labels, str) else labels
        self.shots = shots
        self.seed = seed
        self._preset = preset
        self.augment = augment
        self.split = split
        self.loading = loading
        self.rejects = Rejects(loading.reject_share)
        self.predict_folder = predict_folder
        self._manifest: Manifest | None = None
        self._folder: Manifest | None = None
        self._adopted: Adopted | None = None
        self._sets: dict[str, ImageSet] = {}

    @abstractmethod
    def read_manifest(self) -> Manifest:
        """The data set as it lies on disk, splits where it has its own."""

    @property
    @abstractmethod
    def decoder(self) -> Decoder:
        """What turns a record into a tensor; `PictureDecoder(self.preset, reader)` for pictures."""

    @abstractmethod
    def default_prompts(self, multilabel: bool) -> PromptSet:
        """Prompts for users who give none."""

    def read_folder(self, folder: str) -> Manifest:
        """What there is to predict in a folder: every file that ends in one of `suffixes`."""
        return folder_manifest(folder, self.suffixes, type(self).__name__)

    @property
    def manifest(self) -> Manifest:
        """The data set with classes chosen, duplicates out and splits assigned and checked."""
        if self._manifest is None:
            manifest = self.read_manifest()
            self._manifest = prepared(manifest, self.rejects, self.split, self._wanted, self._adopted)
        return self._manifest

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of labels."""
        return list(self._adopted.classes if self._adopted else self.manifest.classes)

    @property
    def multilabel(self) -> bool:
        """Whether an image may show several classes at once."""
        return self._adopted.multilabel if self._adopted else self.manifest.multilabel

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
        self._adopted = Adopted(tuple(classes), multilabel)
        if prompts is not None:
            self._prompts = prompts
        self._manifest = None
        self._sets.clear()

    def hashes(self) -> dict[str, str]:
        """What was split how: `split`, and `shots` when only some of the training images are used."""
        hashes = {"split": split_hash(self.manifest.records)}
        if self.shots is not None and "train" in self._sets:
            hashes["shots"] = split_hash(self._sets["train"].records)
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
            self._folder = self.read_folder(self.predict_folder)
            self.rejects.total += self._folder.rows
            positions = list(range(len(self._folder.records)))
            self._sets["predict"] = self._loaded(self._folder, positions, "predict", labelled=False)
        else:
            split = "test" if stage == "predict" else stage
            self._sets[stage] = self._loaded(self.manifest, nonempty(self.manifest, split), split)  # type: ignore[arg-type]
        self.rejects.flush()

    def train_dataloader(self) -> DataLoader[Any]:
        """Training batches; images are not augmented yet."""
        images = self._sets["train"]
        sampler = TrainSampler(images, self._seed, self._rank, self._world)
        size = self.loading.batch_size
        return self._loader(images, sampler, size, self.loading.drop_last and len(sampler) >= size)

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
                yield {**batch, **moved, "image": self.decoder.finish(pixels)}

    def validation_batches(self, device: torch.device) -> Iterator[dict[str, Any]]:
        """All validation images once, in order, not augmented; every process sees all of them."""
        if "validate" not in self._sets:
            raise ValueError(
                f"{type(self).__name__}: there is no validation split to choose anything on; give split.fractions a "
                "share for it, or switch the choice off"
            )
        for batch in self._eval_loader(self._sets["validate"]):
            moved = {key: value.to(device) for key, value in batch.items() if isinstance(value, Tensor)}
            yield {**batch, **moved, "image": self.decoder.finish(moved["image"])}

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Augment (training only) and normalise, on the device."""
        if self.trainer is not None and self.trainer.training:
            batch = augmented(batch, self.augment, self._seed, self.trainer.current_epoch)
        return {**batch, "image": self.decoder.finish(batch["image"])}

    def pictures(self) -> Pictures | None:
        """The training pictures, where they are finitely many and in memory."""
        return Pictures.of(self._sets["train"], self.augment, self._seed)

    def _setup_fit(self) -> None:
        train = nonempty(self.manifest, "train")
        validate = self.manifest.positions("validate")
        if self.shots is not None:
            self._sets |= drawn_sets(
                self.manifest,
                (train, validate),
                self.shots,
                self._seed,
                self.policy,
                lambda positions: self._images(self.manifest, positions),
                self.loading.readers,
            )
            return
        self._sets["train"] = self._loaded(self.manifest, train, "train")
        if validate:
            self._sets["validate"] = self._loaded(self.manifest, validate, "validate")

    def _images(self, manifest: Manifest, positions: Sequence[int], labelled: bool = True) -> ImageSet:
        return ImageSet(manifest, positions, self.decoder, self.policy, self.rejects, labelled)

    def _loaded(self, manifest: Manifest, positions: Sequence[int], split: str, labelled: bool = True) -> ImageSet:
        images = self._images(manifest, positions, labelled)
        if self.loading.fits(images.bytes()):
            images.preload(self.loading.readers, f"reading {len(images)} {split} images")
            self.rejects.check()
            if not len(images):
                raise ValueError(f"{manifest.name}: none of the {len(positions)} {split} images can be read")
        return images

    def _eval_loader(self, images: ImageSet) -> DataLoader[Any]:
        return self._loader(images, EvalSampler(images, self._rank, self._world), self.loading.eval_batch_size, False)

    def _loader(self, images: ImageSet, sampler: TrainSampler, size: int, drop_last: bool) -> DataLoader[Any]:
        workers = self.loading.readers
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
