"""Few-shot and zero-shot image classification, with classes that exclude each other or findings that co-occur."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from domainvl.adapters.base import Adapter
from domainvl.backbones.base import Backbone
from domainvl.data.bank import PromptBank
from domainvl.evaluation import Predictions
from domainvl.evaluation.findings import FindingProtocol, FindingProtocolName, evaluate_findings
from domainvl.evaluation.outcome import Besides, Classified, Outcome
from domainvl.evaluation.stain_shift import evaluate_stain_shifts
from domainvl.features import Batch, Features
from domainvl.objectives.base import Objective
from domainvl.speed import FAST, Speed
from domainvl.tasks.class_scores import PLAIN_ADAPTER
from domainvl.tasks.image_pass import CachedPass, ImagePass, Seen
from domainvl.tasks.labelling import Labelling
from domainvl.tasks.rows import Rows, array
from domainvl.tasks.schedule import Schedule

_STAIN = "image@stain "
_BANK_ROWS = 256
"""Sentences of a bank that go through the text tower at once."""


class Classification(Labelling):
    """Image classification against class names.

    Multi-label findings are decided by two prompts each: `p = sigmoid(s cos(f, yes) - s cos(f, no))`, the two-prompt
    softmax with the model's own scale. Zero-shot scores are computed beside the adapted ones in every evaluation.

    After `trainer.validate`, `test` or `predict`, `predictions` holds what the model said.

    Args:
        backbone: The pretrained model.
        adapter: What is learned; None for zero-shot.
        objectives: Losses by name; None, or weight 0, switches one of a `base:` recipe off.
        optimizer: Class and arguments of the optimiser; needed to train.
        schedule: How the learning rate moves; constant when None.
        speed: What may be skipped; everything that leaves the numbers as they are.
        bank: A file with many sentences about each class (`domainvl.data.bank`), or `builtin:chest-findings`, for
            objectives that want them.
        findings: A protocol that tests are counted under as well, with thresholds from the validation split: its name,
            or a description; see `domainvl.evaluation.findings`.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter | None = None,
        objectives: dict[str, Objective | None] | None = None,
        optimizer: OptimizerCallable | None = None,
        schedule: Schedule | None = None,
        speed: Speed = FAST,
        bank: str | None = None,
        findings: FindingProtocolName | FindingProtocol | None = None,
    ) -> None:
        super().__init__(backbone, adapter, objectives, optimizer, schedule, speed)
        self.findings = FindingProtocol.named(findings) if isinstance(findings, str) else findings
        self._validated: Predictions | None = None
        self.bank = None if bank is None else PromptBank.read(bank)
        self._bank_features: Tensor | None = None
        self._shifted: dict[str, Predictions] = {}

    # Set-up

    def setup(self, stage: str) -> None:
        """Read the classes from the data module, attach the adapter, check the objectives."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if stage == "test" and self.findings is not None:
            self._validation = data.batches("validate", self.trainer.strategy.root_device)
        if self._attached:
            return
        self._read_classes(data)
        self._image = ImagePass(self.backbone, self.adapter or PLAIN_ADAPTER, self.speed)
        self._cached: CachedPass | None = None
        if stage == "fit":
            self._show_support()
            if self.bank is not None:
                self._bank_features = self._read_bank(self.bank)
            self.attach_objectives(self._offered())
            self._remember(data)

    def hashes(self) -> dict[str, str]:
        """See `Task.hashes`."""
        return super().hashes() | ({} if self.bank is None else {"bank": self.bank.digest})

    @torch.no_grad()
    def _read_bank(self, bank: PromptBank) -> Tensor:
        """What the untouched model makes of every sentence, `[C, N, D]` (`[2C, N, D]` in multi-label data)."""
        groups = bank.texts(self.classes)
        if self.multilabel:
            groups += bank.texts(self.classes, negative=True)
        rows = [text for group in groups for text in group]
        features = []
        for start in range(0, len(rows), _BANK_ROWS):
            inputs = self.backbone.tokenize(rows[start : start + _BANK_ROWS]).to(self.backbone.logit_scale.device)
            features.append(PLAIN_ADAPTER.encode("text", self.backbone.text, inputs, self.speed)["text.pooled"])
        return torch.cat(features).unflatten(0, (len(groups), -1))

    def _supporting(self, adapter: Adapter, batch: Batch) -> Tensor:
        return adapter.see(self.backbone.image, batch["image"])

    def _choosing(self, adapter: Adapter, batch: Batch) -> Features:
        return adapter.encode("image", self.backbone.image, batch["image"])

    def _offered(self) -> Features:
        """The features that a step makes, for one blank image."""
        with torch.no_grad():
            return self.features(self.backbone.blank(), frozen_image=True)

    def _needs_frozen_image(self) -> bool:
        """Whether an objective reads what the untouched model makes of an image."""
        return self.needs("frozen/image.pooled") or self.needs("frozen/image.logits")

    def _remember(self, data: Any) -> None:
        """Keep what the frozen image tower says about the training pictures, where these are finitely many."""
        pictures = data.pictures() if self.speed.cache and hasattr(data, "pictures") else None
        if pictures is not None:
            setting = f"{self.trainer.precision} {self.trainer.strategy.root_device.type}"
            self._cached = CachedPass(self._image, pictures, self._needs_frozen_image(), setting)

    # Features

    def features(
        self, image: Tensor, text: Features | None = None, frozen_image: bool = False, seen: Seen | None = None
    ) -> Features:
        """Everything that objectives and predictions read.

        Args:
            image: Normalised pixels, `[B, 3, S, S]`.
            text: Class features of the adapted model; computed when None.
            frozen_image: Whether the untouched model's image features are wanted too.
            seen: What the frozen image tower says about `image`; computed when None.
        """
        adapter, tower = self.adapter or PLAIN_ADAPTER, self.backbone.image
        seen = seen or self._image(image, frozen_image)
        features = adapter.finish("image", tower, seen.prefix, self.speed)
        if adapter.text_per_image:
            features["text.pooled"] = self._scores.of_images(features["image.pooled"])
        else:
            features |= self._scores.features() if text is None else text
        if seen.frozen is not None:
            features["frozen/image.pooled"] = seen.frozen
            features["frozen/image.logits"] = self._scores.zero_shot(seen.frozen)
        features["frozen/text.pooled"] = self._scores.frozen
        if self._bank_features is not None:
            features["frozen/text@bank.tokens"] = self._bank_features
        return features | self._scores.scores(features, novel=self.novel)

    # Steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """One optimiser step's loss; None where nothing is learned (a cache of training images)."""
        if not self.trained_parameters():
            return None
        image = batch["image"]
        seen = None if self._cached is None else self._cached(image, batch["index"], batch["view"])
        features = self.features(image, frozen_image=self._needs_frozen_image(), seen=seen)
        return self.total_loss(features, batch)

    def on_validation_epoch_start(self) -> None:
        """See `Labelling.on_validation_epoch_start`."""
        super().on_validation_epoch_start()
        self._validated = None

    def on_test_epoch_start(self) -> None:
        """Score the validation split first, where a protocol wants thresholds from it."""
        super().on_test_epoch_start()
        if self.findings is None:
            return
        rows = [self.validation_step(batch, 0) for batch in self._validation]
        self.forget()
        self._validated = Rows(rows, whole=True).predictions(self.classes, self.multilabel)

    def scored(self, batch: Batch) -> Features:
        """See `Labelling.scored`."""
        return self.features(batch["image"], text=self._evaluated, frozen_image=True)

    def _besides(self, batch: Batch, features: Features) -> dict[str, Any]:
        """What both models say of the same pictures in other stains, where the data shows them (`image@stain NAME`)."""
        found: dict[str, Any] = {}
        for key in (key for key in batch if key.startswith(_STAIN)):
            shown = self.features(batch[key], text=self._evaluated, frozen_image=True)
            name = key.removeprefix(_STAIN)
            found[f"zero_shot {name}"] = array(self._scores.probability(shown["frozen/image.logits"]))
            if self.adapter is not None:
                found[f"adapted {name}"] = array(self._scores.probability(shown["image.logits"]))
        return found

    def _take(self, rows: Rows) -> None:
        super()._take(rows)
        names = [key.removeprefix("zero_shot ") for key in rows.names if key.startswith("zero_shot ")]
        self._shifted = {
            name: rows.predictions(self.classes, self.multilabel, f"zero_shot {name}", f"adapted {name}")
            for name in names
        }

    def outcome(self) -> Outcome:
        """Class probabilities of the last evaluation, also under the protocol and in other stains where asked for."""
        if self.predictions is None:
            return super().outcome()
        besides: dict[str, Besides] = {}
        if self.findings is not None and self._validated is not None:
            test, validation = (self._under(self.findings, one) for one in (self.predictions, self._validated))
            besides["findings"] = partial(evaluate_findings, self.findings, test, validation)
        if self._shifted:
            besides["stain_shifts"] = partial(evaluate_stain_shifts, self.predictions, self._shifted)
        return Classified(self.predictions, besides)

    def _under(self, protocol: FindingProtocol, predictions: Predictions) -> Predictions:
        """Reconstructions of a scan share patient and study."""
        records = self.trainer.datamodule.manifest.records  # type: ignore[attr-defined]
        scans = {record.id: f"{record.patient}\n{record.study or record.id}" for record in records}
        return protocol.apply(predictions, [scans[name] for name in predictions.ids])
