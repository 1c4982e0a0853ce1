"""Few-shot and zero-shot image classification, with classes that exclude each other or findings that co-occur."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from domainvl.adapters.base import Adapter
from domainvl.backbones.base import Backbone
from domainvl.data.bank import PromptBank
from domainvl.distributed import gather_objects
from domainvl.evaluation import Predictions, headline
from domainvl.features import Batch, Features
from domainvl.objectives.base import Objective
from domainvl.speed import FAST, Speed
from domainvl.tasks.base import Task
from domainvl.tasks.class_texts import ClassTexts
from domainvl.tasks.image_pass import CachedPass, ImagePass, Seen
from domainvl.tasks.schedule import Schedule
from domainvl.tasks.selection import accuracy, mean_auroc
from domainvl.tokens import TokenState

_BANK_ROWS = 256
"""Sentences of a bank that go through the text tower at once."""


class Classification(Task):
    """Image classification against class names.

    Multi-label findings are decided by two prompts each: `p = sigmoid(s cos(f, yes) - s cos(f, no))`, the two-prompt
    softmax with the model's own scale. Zero-shot scores are computed beside the adapted ones in every evaluation.

    After `trainer.validate`, `test` or `predict`, `predictions` holds what the model said.

    Args:
        backbone: The pretrained model.
        adapter: What is learned; None for zero-shot.
        objectives: Losses by name; None switches one of a `base:` recipe off.
        optimizer: Class and arguments of the optimiser; needed to train.
        schedule: How the learning rate moves; constant when None.
        speed: What may be skipped; everything that leaves the numbers as they are.
        bank: A file with many sentences about each class (`domainvl.data.bank`), or `builtin:chest-findings`, for
            objectives that want them.
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
    ) -> None:
        super().__init__(backbone, adapter, objectives, optimizer, schedule, speed)
        self.bank = None if bank is None else PromptBank.read(bank)
        self._bank_features: Tensor | None = None
        self.predictions: Predictions | None = None
        self._plain = Adapter()
        self._rows: list[dict[str, Any]] = []
        self._evaluated: Features | None = None

    # Set-up

    def setup(self, stage: str) -> None:
        """Read the classes from the data module, attach the adapter, check the objectives."""
        if self._attached:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.classes: list[str] = list(data.classes)
        self.multilabel: bool = data.multilabel
        self.novel = self._novel_classes()
        # Lightning moves a task to its device after this hook, but not the class features that are made here.
        device = self.trainer.strategy.root_device
        self.backbone.to(device)
        self._plain_texts = self._texts(data.prompts, self._plain).to(device)
        with torch.no_grad():
            rows = self._plain.encode("text", self.backbone.text, self._plain_texts.inputs)["text.pooled"]
            self._frozen_text = self._plain_texts.ensemble(rows)
        self.attach(torch.nn.functional.normalize(self._frozen_text, dim=-1))
        self._attached = True
        if self.adapter is not None:
            self._adapter_texts = self._texts(data.prompts, self.adapter).to(device)
            self._text_prefix: TokenState | None = None
        self._image = ImagePass(self.backbone, self.adapter or self._plain, self.speed)
        self._cached: CachedPass | None = None
        if stage == "fit":
            self._show_support()
            if self.bank is not None:
                self._bank_features = self._read_bank(self.bank)
            self.check_objectives(self._offered())
            self._remember(data)

    def _novel_classes(self) -> bool:
        """Whether a saved adapter meets classes that it was not trained on."""
        if self.adapter is None or self.trained_classes in (None, self.classes):
            return False
        if self.adapter.only_known_classes():
            raise ValueError(
                f"{type(self.adapter).__name__} scores only the classes that it was trained on "
                f"({', '.join(self.trained_classes or [])}); the data has {', '.join(self.classes)}"
            )
        return True

    def _texts(self, prompts: Any, adapter: Adapter) -> ClassTexts:
        return ClassTexts.of(self.classes, prompts, self.multilabel, self.backbone.tokenize, adapter.prompt)

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
            features.append(self._plain.encode("text", self.backbone.text, inputs, self.speed)["text.pooled"])
        return torch.cat(features).unflatten(0, (len(groups), -1))

    def _show_support(self) -> None:
        """Show the adapter the frozen features of the training images, if it wants to see them."""
        if self.adapter is None or not self.adapter.support_views or self._saved is not None:
            return
        views: list[Tensor] = []
        targets: list[Tensor] = []
        device = self.trainer.strategy.root_device
        with torch.no_grad(), self.adapter.off():
            for view in range(self.adapter.support_views):
                rows = []
                for batch in self.trainer.datamodule.support_batches(view, device):  # type: ignore[attr-defined]
                    rows.append(self.adapter.see(self.backbone.image, batch["image"]))
                    if view == 0:
                        targets.append(self._targets(batch))
                views.append(torch.cat(rows))
        self.adapter.take_support(torch.stack(views), torch.cat(targets))

    def choose_on_validation(self) -> None:
        """See `Task.choose_on_validation`: by accuracy, in multi-label data by the mean area under the ROC curve."""
        if self.adapter is None:
            return
        device = self.backbone.logit_scale.device
        rows: list[Features] = []
        labels, valid = [], []
        self.eval()
        with torch.no_grad():
            shared = self.class_features()
            for batch in self.trainer.datamodule.validation_batches(device):  # type: ignore[attr-defined]
                rows.append(self.adapter.encode("image", self.backbone.image, batch["image"]))
                labels.append(batch["label"])
                valid.append(batch["valid"] if self.multilabel else torch.ones_like(batch["label"], dtype=torch.bool))
            label, known = torch.cat(labels), torch.cat(valid)
            features = {key: torch.cat([row[key] for row in rows]) for key in rows[0]} | shared

            def measure(scores: Tensor) -> float:
                decided = self._decision(scores)
                return mean_auroc(decided, label == 1, known) if self.multilabel else accuracy(decided, label)

            self.adapter.choose(features, self.backbone.scale(), measure)
        self.train()

    def _targets(self, batch: Batch) -> Tensor:
        """Which prompts are true of an image, `[B, C]` (`[B, 2C]` in multi-label data)."""
        label = batch["label"]
        if not self.multilabel:
            return torch.nn.functional.one_hot(label, len(self.classes)).float()
        yes, valid = label == 1, batch["valid"]
        return torch.cat([yes & valid, ~yes & valid], dim=-1).float()

    def _offered(self) -> list[str]:
        """The features that a step makes, found by making them for one blank image."""
        with torch.no_grad():
            features = self.features(self.backbone.blank())
        return sorted({*features, "frozen/image.pooled", "frozen/image.logits", "frozen/text.pooled"})

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
        adapter, tower = self.adapter or self._plain, self.backbone.image
        seen = seen or self._image(image, frozen_image)
        features = adapter.finish("image", tower, seen.prefix, self.speed)
        if adapter.text_per_image:
            rows = adapter.encode_per_image(self.backbone.text, self._adapter_texts.inputs, features["image.pooled"])
            features["text.pooled"] = self._adapter_texts.ensemble(rows)
        else:
            features |= self.class_features() if text is None else text
        if seen.frozen is not None:
            features["frozen/image.pooled"] = seen.frozen
            features["frozen/image.logits"] = self._zero_shot_scores(seen.frozen)
        features["frozen/text.pooled"] = self._frozen_text
        if self._bank_features is not None:
            features["frozen/text@bank.tokens"] = self._bank_features
        scores = adapter.logits(features, self.backbone.scale(), novel=self.novel)
        return features | {key: self._decision(value) for key, value in scores.items()}

    def class_features(self) -> Features:
        """Class features of the adapted model: `text.pooled` `[C, D]` (`[2C, D]` in multi-label data)."""
        if self.adapter is None or self.adapter.text_per_image:
            return {"text.pooled": self._frozen_text}
        adapter, tower, texts = self.adapter, self.backbone.text, self._adapter_texts
        if adapter.first_block("text", tower) == 0:
            features = adapter.encode("text", tower, texts.inputs, self.speed)
        else:
            if self._text_prefix is None:
                self._text_prefix = adapter.prefix("text", tower, texts.inputs, self.speed)
            features = adapter.finish("text", tower, self._text_prefix, self.speed)
        return {key: texts.ensemble(value) for key, value in features.items()}

    def zero_shot(self, frozen_image: Tensor) -> Tensor:
        """Probabilities of the untouched model, `[B, C]`."""
        return self._probability(self._zero_shot_scores(frozen_image))

    def _zero_shot_scores(self, frozen_image: Tensor) -> Tensor:
        features = {"image.pooled": frozen_image, "text.pooled": self._frozen_text}
        return self._decision(self._plain.logits(features, self.backbone.scale())["image.logits"])

    def _decision(self, scores: Tensor) -> Tensor:
        """One logit per class: in multi-label data the yes prompts minus the no prompts."""
        if not self.multilabel:
            return scores
        yes, no = scores.chunk(2, dim=-1)
        return yes - no

    def _probability(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid() if self.multilabel else logits.float().softmax(dim=-1)

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
        """Class features change with every step: compute them once per evaluation and forget them afterwards."""
        self._rows, self.predictions = [], None
        self._evaluated = self.class_features()

    on_test_epoch_start = on_validation_epoch_start
    on_predict_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score a batch with both models."""
        features = self.features(batch["image"], text=self._evaluated, frozen_image=True)
        row: dict[str, Any] = {"id": batch["id"], "patient": batch["patient"], "index": _array(batch["index"])}
        row["zero_shot"] = _array(self.zero_shot(features["frozen/image.pooled"]))
        if self.adapter is not None:
            row["adapted"] = _array(self._probability(features["image.logits"]))
        for key in ("label", "valid"):
            if key in batch:
                row[key] = _array(batch[key])
        self._rows.append(row)

    test_step = validation_step
    predict_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log the headline numbers."""
        self._collect()
        if self.predictions is None:
            return
        stage = "test" if self.trainer.testing else "val"
        for name, value in headline(self.predictions).items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "auroc_macro", rank_zero_only=True)

    on_test_epoch_end = on_validation_epoch_end

    def on_predict_epoch_end(self) -> None:
        """Keep what was predicted."""
        self._collect()

    def _collect(self) -> None:
        """Put the batches of all processes together."""
        rows = [row for part in gather_objects(self._rows) for row in part]
        self._rows, self._evaluated = [], None
        self.predictions = _joined(rows, self.classes, self.multilabel) if rows else None


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy() if tensor.is_floating_point() else tensor.detach().cpu().numpy()


def _joined(rows: Sequence[Mapping[str, Any]], classes: list[str], multilabel: bool) -> Predictions:
    # Several processes take turns at the images; their results go back into the order of the data.
    order = np.concatenate([row["index"] for row in rows]).argsort(kind="stable")

    def joined(key: str) -> np.ndarray | None:
        return np.concatenate([row[key] for row in rows])[order] if key in rows[0] else None

    def named(key: str) -> list[str]:
        names = [name for row in rows for name in row[key]]
        return [names[position] for position in order]

    zero_shot = joined("zero_shot")
    if zero_shot is None:
        raise RuntimeError("Classification: an evaluation batch carries no zero-shot scores")
    return Predictions(
        ids=named("id"),
        patients=named("patient"),
        classes=classes,
        multilabel=multilabel,
        labels=joined("label"),
        valid=joined("valid"),
        zero_shot=zero_shot,
        adapted=joined("adapted"),
    )
