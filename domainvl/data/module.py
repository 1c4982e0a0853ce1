"""The base of all data modules: from a manifest to batches (`domainvl.data.batch` says what they hold)."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from domainvl.data.augment import Augment
from domainvl.data.batch import finished, finished_support, finished_training, moved
from domainvl.data.boxes import Box
from domainvl.data.decoder import Decoder
from domainvl.data.fewshot import check_shots
from domainvl.data.images import ImageSet
from domainvl.data.labels import LabelPolicy, PolicyName
from domainvl.data.loader import image_loader
from domainvl.data.loading import Loading
from domainvl.data.manifest import Manifest, Split
from domainvl.data.pairing import Pairing
from domainvl.data.preparing import Adopted, folder_manifest, nonempty, prepared
from domainvl.data.preset import Preset
from domainvl.data.prompts import PromptSet
from domainvl.data.rejects import Rejects
from domainvl.data.sampler import EvalSampler, TrainSampler
from domainvl.data.sets import drawn_sets, loaded
from domainvl.data.splits import SplitRule, split_hash
from domainvl.data.texts.views import TextViews
from domainvl.data.views import Pictures

if TYPE_CHECKING:
    from domainvl.data.volumes.preset import VolumePreset


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
        texts: Texts that go with the images; None for images alone.
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
        texts: TextViews | None = None,
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
        self.texts = texts
        self.rejects = Rejects(loading.reject_share)
        self.predict_folder = predict_folder
        self._manifest: Manifest | None = None
        self._folder: Manifest | None = None
        self._adopted: Adopted | None = None
        self._pairing: Pairing | None = None
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

    def prepare(self, preset: Preset | VolumePreset) -> int:
        """Make all records as a model takes them, for modules that keep that on disk; what cannot be is in `rejects`.

        Args:
            preset: The model's, which counts where the module has none.

        Returns:
            How many there are now.
        """
        raise TypeError(f"{type(self).__name__} reads its files as they are, so there is nothing to prepare")

    @property
    def manifest(self) -> Manifest:
        """The data set with classes chosen, duplicates out and splits assigned and checked."""
        if self._manifest is None:
            manifest = self.read_manifest()
            if not manifest.classes and self.texts is None:
                raise ValueError(
                    f"{manifest.name}: there are no classes: no column holds labels. Name label_columns, or give texts "
                    "to pair the images with"
                )
            self._manifest = prepared(manifest, self.rejects, self.split, self._wanted, self._adopted)
        return self._manifest

    @property
    def pairing(self) -> Pairing | None:
        """Texts and numbers of the images; None where `texts` is."""
        if self.texts is not None and self._pairing is None:
            self._pairing = Pairing(self.manifest, self.texts)
        return self._pairing

    @property
    def text_views(self) -> list[str]:
        """Names of the texts that every batch carries as `text@NAME`."""
        return [] if self.texts is None else list(self.texts.extra)

    @property
    def sets(self) -> Mapping[str, ImageSet]:
        """The image sets that were set up, by split."""
        return self._sets

    def images_of(self, split: Split) -> ImageSet:
        """The images of a split; not in memory where no stage has asked for it yet."""
        found = self._sets.get(split)
        return self._images(self.manifest, self.manifest.positions(split)) if found is None else found

    def boxes(self, position: int) -> Sequence[Box]:
        """Where phrases are true in an image."""
        return self.manifest.records[position].boxes

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

    def prepare_as(self, preset: Preset) -> None:
        """Prepare images as a backbone wants them, without a Trainer; a preset of the module's own counts first."""
        self._preset = self._preset or preset

    def adopt(self, classes: Sequence[str], multilabel: bool, prompts: PromptSet | None = None) -> None:
        """Take classes and prompts from a saved adapter, so that predicting a folder needs no training data."""
        self._wanted = list(classes)
        self._adopted = Adopted(tuple(classes), multilabel)
        if prompts is not None:
            self._prompts = prompts
        self._manifest = self._pairing = None
        self._sets.clear()

    def only(self, ids: Collection[str]) -> None:
        """Keep the images with these ids and forget all others, for a look at a few; `hashes` are then of these."""
        self._manifest = self.manifest.where(lambda record: record.id in ids)
        self._pairing = None
        self._sets.clear()

    def preparation_facts(self) -> dict[str, Any]:
        """What is done to inputs that the backbone does not ask for, as plain values; saved with adapters."""
        return {} if self._preset is None else {"preset": asdict(self._preset)}

    def hashes(self) -> dict[str, str]:
        """What was split how: `split`, and `shots` when only some of the training images are used."""
        hashes = {"split": split_hash(self.manifest.records)}
        if self.shots is not None and "train" in self._sets:
            hashes["shots"] = split_hash(self._sets["train"].records)
        return hashes

    def split_facts(self) -> Mapping[str, Any]:
        """What there is to say of the splits besides their sizes, in plain values; empty for nothing."""
        return {}

    def setup(self, stage: str) -> None:
        """Read tables, draw shots, read images that fit into memory."""
        if self.trainer is not None and self.rejects.path is None:
            name = f"rejects.{self._rank}.csv" if self._rank else "rejects.csv"
            self.rejects.path = Path(self.trainer.default_root_dir) / name
        # Lightning hands over an enum that equals its string and prints as something else.
        stage = str(getattr(stage, "value", stage))
        if stage == "fit":
            self._setup_fit()
        elif stage == "predict" and self.predict_folder is not None:
            self._folder = self.read_folder(self.predict_folder)
            self.rejects.total += self._folder.rows
            positions = list(range(len(self._folder.records)))
            self._sets["predict"] = self._loaded(self._folder, positions, "predict", labelled=False)
        else:
            split: Split = "validate" if stage == "validate" else "test"
            self._sets[stage] = self._loaded(self.manifest, self._usable(split), split)
        self.rejects.flush()

    def train_dataloader(self) -> DataLoader[Any]:
        """Training batches; images are not augmented yet."""
        images, studies = self._sets["train"], None
        if images.pairing is not None and images.pairing.views.one_per_study:
            studies = images.pairing.study[images.positions].tolist()
        return image_loader(images, TrainSampler(images, self._seed, self._rank, self._world, studies), self.loading)

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
        """All training images once, prepared as for training; `view` seeds the augmentation. See `batches`."""
        seed = self._seed * 1_000_003 + view
        yield from finished_support(self._whole(self._sets["train"]), self.decoder, self.augment, seed, device)

    def validation_batches(self, device: torch.device) -> Iterator[dict[str, Any]]:
        """All validation images of this run once, of which there are few where shots are. See `batches`."""
        if "validate" not in self._sets:
            raise ValueError(
                f"{type(self).__name__}: there is no validation split to choose anything on; give split.fractions a "
                "share for it, or switch the choice off"
            )
        for batch in self._whole(self._sets["validate"]):
            yield finished(moved(batch, device), self.decoder)

    def batches(self, split: Split, device: torch.device) -> Iterator[dict[str, Any]]:
        """All images of a split once, in order, not augmented; every process sees all of them.

        What fits into memory is read now, the rest as it is asked for.
        """
        loader = self._whole(self._loaded(self.manifest, self._usable(split), split))
        return (finished(moved(batch, device), self.decoder) for batch in loader)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Augment (training only) and normalise, on the device."""
        if self.trainer is None or not self.trainer.training:
            return finished(batch, self.decoder)
        epoch = self.trainer.current_epoch
        return finished_training(batch, self.decoder, self.augment, self._seed, epoch, self._second_view)

    def pictures(self) -> Pictures | None:
        """The training pictures, where they are finitely many and in memory."""
        return Pictures.of(self._sets["train"], self.augment, self._seed)

    @property
    def _second_view(self) -> bool:
        """Whether what is trained reads every image once more, changed otherwise."""
        return self.trainer is not None and bool(getattr(self.trainer.lightning_module, "second_view", False))

    def _check_second_view(self) -> None:
        """An unchanged second view would teach nothing, so there has to be a way to change it."""
        if not self._second_view or self.augment is not None:
            return
        todo = "set data.augment ({} for the usual changes)"
        if not self.augmentable:
            todo = "what it reads cannot be augmented, so use objectives that do without"
        raise ValueError(
            f"{type(self).__name__}: an objective reads a second view of every image (image@second...), but "
            f"data.augment is null; {todo}"
        )

    def _setup_fit(self) -> None:
        self._check_second_view()
        train = self._usable("train")
        validate = self._usable("validate") if self.manifest.positions("validate") else []
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
        pairing = self.pairing if labelled else None
        return ImageSet(manifest, positions, self.decoder, self.policy, self.rejects, labelled, pairing)

    def _usable(self, split: Split) -> list[int]:
        positions = nonempty(self.manifest, split)
        pairing = self.pairing
        return positions if pairing is None else pairing.with_text(positions, self.rejects, self.loading.readers, split)

    def _loaded(self, manifest: Manifest, positions: Sequence[int], split: str, labelled: bool = True) -> ImageSet:
        return loaded(self._images(manifest, positions, labelled), self.loading, split)

    def _eval_loader(self, images: ImageSet) -> DataLoader[Any]:
        return image_loader(images, EvalSampler(images, self._rank, self._world), self.loading)

    def _whole(self, images: ImageSet) -> DataLoader[Any]:
        """Every image in every process, where `_eval_loader` gives each its part."""
        return image_loader(images, EvalSampler(images), self.loading)

    @property
    def _seed(self) -> int:
        return int(os.environ.get("PL_GLOBAL_SEED", "0")) if self.seed is None else self.seed

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer is not None else 0

    @property
    def _world(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1
