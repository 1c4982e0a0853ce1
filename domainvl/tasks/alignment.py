"""Alignment of images and reports, with retrieval and zero-shot scores inside every evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from domainvl.adapters.base import Adapter
from domainvl.backbones.base import Backbone
from domainvl.data.boxes import Box
from domainvl.distributed import gather
from domainvl.evaluation import Predictions
from domainvl.evaluation.alignment_result import AlignmentPredictions, headline_alignment
from domainvl.evaluation.leakage import Leakage
from domainvl.evaluation.outcome import Classified, Outcome
from domainvl.evaluation.retrieval import STUDY, ProtocolName, RetrievalProtocol
from domainvl.features import Batch, FeatureKey, Features
from domainvl.objectives.base import Objective, feature_needs
from domainvl.speed import FAST, Speed
from domainvl.tasks.class_scores import PLAIN_ADAPTER
from domainvl.tasks.leakage import leakage_of, warn_of
from domainvl.tasks.organ_pass import OrganPass
from domainvl.tasks.organ_scores import OrganScores
from domainvl.tasks.pair_evaluation import PairEvaluation
from domainvl.tasks.pair_rows import Aligned, classes_of, pairs_of
from domainvl.tasks.pairs import PairPass
from domainvl.tasks.queue import Queue
from domainvl.tasks.remembered import remembered_images, remembered_texts
from domainvl.tasks.rows import Rows
from domainvl.tasks.schedule import Schedule
from domainvl.tasks.scoring import Scoring
from domainvl.tasks.teacher import Teacher

_CLASSES = "frozen/text@classes.pooled"
"""The untouched model's class names, `[C, D]`: attributes for objectives that look for them in images."""
_HIGHEST_SCALE = float(np.log(100))
"""Where CLIP stops its temperature."""


class Alignment(Scoring):
    """Adapt a model to pairs of image and report.

    Objectives say what they read, and only that is computed: an untouched model (`frozen/...`), a second view
    (`image@second...`), a teacher (`ema/...`) or a queue (`queue/...`) costs nothing where nobody reads it.

    An evaluation asks both models the same: to find the report of an image and the image of a report, and, where
    there are labels, to score images against class names. What was found before training that splits share stands
    beside the numbers.

    Args:
        backbone: The pretrained model.
        adapter: What is learned; None for zero-shot.
        objectives: Losses by name; None, or weight 0, switches one of a `base:` recipe off.
        optimizer: Class and arguments of the optimiser; needed to train.
        schedule: How the learning rate moves; constant when None.
        speed: What may be skipped; everything that leaves the numbers as they are.
        teacher: A running mean of the weights, for objectives that read `ema/...`.
        queue: Features of earlier batches, for objectives that read `queue/...`.
        train_temperature: Whether the factor on cosines is learned too; it is stored with the adapter.
        organ_of: Organ of classes that evaluation also looks for in their organ's feature alone.
        encode_chunk: Images, or reports, that are encoded at once. Larger batches are recomputed chunk by chunk in
            the backward pass: same gradients, memory of one chunk, about a third more time.
        compare_splits: Whether splits are compared before training, for patients, copied images and repeated texts.
            Images of a set that does not fit into memory are read once for it.
        retrieval: How retrieval is counted: the name of a protocol, or a description; see
            `domainvl.evaluation.retrieval`.
    """

    shown = Scoring.shown | {"i2t_r5"}

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter | None = None,
        objectives: dict[str, Objective | None] | None = None,
        optimizer: OptimizerCallable | None = None,
        schedule: Schedule | None = None,
        speed: Speed = FAST,
        teacher: Teacher | None = None,
        queue: Queue | None = None,
        train_temperature: bool = False,
        organ_of: dict[str, str] | None = None,
        encode_chunk: int | None = None,
        compare_splits: bool = True,
        retrieval: ProtocolName | RetrievalProtocol = STUDY,
    ) -> None:
        super().__init__(backbone, adapter, objectives, optimizer, schedule, speed)
        if encode_chunk is not None and encode_chunk < 1:
            raise ValueError(f"Alignment: encode_chunk is {encode_chunk}; give at least 1, or null for all at once")
        self.teacher, self.queue = teacher, queue
        self.train_temperature = train_temperature
        self.encode_chunk = encode_chunk
        self.organ_of = organ_of or {}
        self.compare_splits = compare_splits
        self._leakage: Leakage | None = None
        self.retrieval = RetrievalProtocol.named(retrieval) if isinstance(retrieval, str) else retrieval
        self._wanted = {key for objective in self.objectives.values() for key in feature_needs(objective.needs)}
        self.predictions: AlignmentPredictions | None = None
        self._classes: Predictions | None = None

    @property
    def second_view(self) -> bool:
        """Whether training batches should hold every image once more, differently augmented."""
        return any("image@second" in key for key in self._wanted)

    # Set-up

    def setup(self, stage: str) -> None:
        """Attach the adapter, find out what objectives read, make their heads."""
        if self._attached:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self._read_classes(data)
        self._attached = True
        views = {f"text@{name}" for name in data.text_views} | {"image@second"}
        organs: Sequence[str] = getattr(data, "organ_names", ())
        self._organ_scores = OrganScores(self.organ_of, self.classes, organs, self.multilabel)
        adapter = self.adapter or PLAIN_ADAPTER
        self._pairs = PairPass(
            self.backbone,
            self.adapter,
            self.speed,
            self._wanted - {_CLASSES},
            views,
            self.encode_chunk,
            remembered_texts(self.backbone, adapter, self.speed, self._wanted, self._setting),
            OrganPass(organs, {FeatureKey.parse(key).view for key in self._wanted}),
        )
        self._organs = OrganPass(organs, set(self.organ_of.values()))
        if stage == "fit":
            self._setup_training()
            self._pairs.images = remembered_images(data, self.backbone, adapter, self.speed, self._setting)
            self._check_splits(data)

    def _check_splits(self, data: Any) -> None:
        """Compare splits, in the process that writes the result."""
        if self.compare_splits and self.trainer.is_global_zero:
            self._leakage = leakage_of(data, self.speed.cache)
            if self._leakage is not None:
                warn_of(self._leakage)

    @property
    def _setting(self) -> str:
        return f"{self.trainer.precision} {self.trainer.strategy.root_device.type}"

    def _setup_training(self) -> None:
        if self.train_temperature:
            self.backbone.logit_scale.requires_grad_(True)
        self._check_roles()
        if self.teacher is not None:
            heads = {id(weight) for objective in self.objectives.values() for weight in objective.parameters()}
            self.teacher.attach(weight for weight in self.trained_parameters() if id(weight) not in heads)
        blank = self._blank()
        with torch.no_grad():
            offered = self._features(blank)
        if self.queue is not None:
            kept = self._kept(offered, blank)
            self.queue.attach(kept)
            offered |= {key: value for key, value in kept.items() if "." in key}
        self.to(self.backbone.logit_scale.device)
        self.attach_objectives(offered)

    def _check_roles(self) -> None:
        """Raise for a teacher, a queue or classes that are wanted and not there."""
        for role, component, name in (("ema", self.teacher, "teacher"), ("queue", self.queue, "queue")):
            readers = [
                label
                for label, objective in self.objectives.items()
                if any(need.removeprefix("batch:").startswith(f"{role}/") for need in objective.needs)
            ]
            if readers and component is None:
                raise ValueError(
                    f"objective {readers[0]!r} reads {role}/..., which Alignment makes only with a {name}; set "
                    f"model.init_args.{name} (class_path: {name.capitalize()})"
                )
        for name, objective in self.objectives.items():
            if not self.classes and "batch:label" in objective.needs:
                raise ValueError(
                    f"objective {name!r} ({type(objective).__name__}) compares images by their classes, and the data "
                    f"have none; switch it off (--model.objectives.{name} null), or give data with classes (of "
                    "captioned scenes by their file names: --data.layout.scenes true)"
                )

    def _blank(self) -> dict[str, Any]:
        """Two pairs that look like those of a batch."""
        device = self.backbone.logit_scale.device
        image = torch.cat([self.backbone.blank()] * 2)
        number = torch.arange(2, device=device)
        blank: dict[str, Any] = {"group": number, "study": number, "index": number, "label": number}
        if self.multilabel:
            blank["label"] = torch.zeros(2, len(self.classes), device=device)
            blank["valid"] = blank["label"] == 0
        if self._pairs.organs:
            blank["organs"] = self._pairs.organs.blank(image)
        for part in {key for role in ("", "ema", "frozen") for key in self._pairs.views(role)}:
            blank[part] = image if part.startswith("image") else ["no finding", "no change"]
        return blank

    # Features

    def _features(self, batch: Batch) -> Features:
        """What objectives read, of one batch."""
        roles = self._pairs.roles()
        features: Features = {}
        if "frozen" in roles:
            features |= self._pairs.frozen(batch)
        if self.teacher is not None and "ema" in roles:
            with self.teacher.active(self):
                features |= self._pairs.teacher(batch)
        if _CLASSES in self._wanted:
            features[_CLASSES] = self._scores.frozen[: len(self.classes)]
        return features | self._pairs.student(batch)

    def _kept(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """What goes into the queue, under the keys that it is read by; the teacher's where there is one."""
        needs = {need for objective in self.objectives.values() for need in objective.needs}
        kept: dict[str, Tensor] = {}
        for need in sorted(needs):
            key = need.removeprefix("batch:").removesuffix("?")
            if not key.startswith("queue/"):
                continue
            name = key.removeprefix("queue/")
            source = batch if need.startswith("batch:") else features
            value = source.get(f"ema/{name}", source.get(name))
            if value is None and need.endswith("?"):
                continue
            if value is None:
                raise ValueError(
                    f"Alignment: an objective reads {key}, but no {name} is made that could be kept; let an objective "
                    f"read {name} or ema/{name} too"
                )
            kept[key] = value.detach()
        return kept

    # Steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One optimiser step's loss."""
        features = self._features(batch)
        kept: dict[str, Tensor] = {}
        if self.queue is not None:
            kept = {key: gather(value) for key, value in self._kept(features, batch).items()}
            rows = self.queue.rows()
            features = features | {key: value for key, value in rows.items() if "." in key}
            batch = {**batch, **{key: value for key, value in rows.items() if "." not in key}}
        loss = self.total_loss(features, batch)
        if self.queue is not None:
            self.queue.push(kept)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The teacher follows, and the temperature stays below CLIP's limit."""
        if self.train_temperature:
            self.backbone.logit_scale.data.clamp_(max=_HIGHEST_SCALE)
        if self.teacher is not None:
            self.teacher.update(self.global_step)

    def optimizer_groups(self) -> list[Mapping[str, Any]]:
        """The temperature is not drawn towards 1 by weight decay."""
        scale = self.backbone.logit_scale
        others = [weight for weight in self.trained_parameters() if weight is not scale]
        return [{"params": others}, *([{"params": [scale], "weight_decay": 0.0}] if scale.requires_grad else [])]

    def on_validation_epoch_start(self) -> None:
        """Class features and phrases are the same for a whole evaluation."""
        super().on_validation_epoch_start()
        self.predictions = None
        self._evaluation = PairEvaluation(
            self._pairs,
            self._scores,
            self._evaluated or {},
            self._organs,
            self._organ_scores,
            self.retrieval,
            self.novel,
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Embed a batch with both models."""
        row = self._evaluation.row(batch, self._boxes(batch))
        self._rows.append(row)
        return row

    def _boxes(self, batch: Batch) -> list[Sequence[Box]]:
        """Where phrases are true, of every image; nothing where the index is not one of the data set."""
        if "text" not in batch:
            return []
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        return [data.boxes(position) for position in batch["index"].tolist()]

    def _headline(self) -> Mapping[str, float]:
        return {} if self.predictions is None else headline_alignment(self.predictions, self.retrieval)

    def _collect(self) -> None:
        """A folder to predict has images alone."""
        rows = Rows(self._rows)
        self.predictions = self._classes = None
        if rows and "text" in rows:
            self.predictions = pairs_of(rows, self.classes, self.multilabel, self._organ_scores.classes)
        elif rows and self.classes:
            self._classes = classes_of(rows, self.classes, self.multilabel)

    def outcome(self) -> Outcome:
        """Retrieval, grounding and class probabilities of the last evaluation."""
        if self._classes is not None:
            return Classified(self._classes)
        if self.predictions is None:
            return super().outcome()
        return Aligned(self.predictions, self._leakage, self.retrieval)
