"""Class names as both models see them, and what images score against them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from domainvl.adapters.base import Adapter
from domainvl.backbones.base import Backbone
from domainvl.data.prompts import PromptSet
from domainvl.features import Features
from domainvl.speed import Speed
from domainvl.tasks.class_texts import ClassTexts
from domainvl.tokens import TokenState

PLAIN_ADAPTER = Adapter()
"""The adapter that changes nothing: how the untouched model is run."""


class ClassScores:
    """Prompts of all classes in the text tower.

    In multi-label data the features of the C yes prompts are followed by those of the C no prompts, and a finding is
    decided by the difference: `p = sigmoid(s cos(f, yes) - s cos(f, no))`, the softmax over its two prompts.

    Args:
        classes: Names, in the order of labels.
        multilabel: Whether an image may show several at once.
        prompts: Sentences that stand for a class.
        backbone: The model, on its device, without an adapter yet; its temperature now is the zero-shot one.
        speed: What may be skipped.
    """

    def __init__(
        self, classes: Sequence[str], multilabel: bool, prompts: PromptSet, backbone: Backbone, speed: Speed
    ) -> None:
        self.classes, self.multilabel = list(classes), multilabel
        self._prompts, self._backbone, self._speed = prompts, backbone, speed
        self._device = backbone.logit_scale.device
        self._scale = backbone.scale().detach().clone()
        self.adapter: Adapter | None = None
        self.texts = self._texts(PLAIN_ADAPTER)
        self._prefix: TokenState | None = None
        with torch.no_grad():
            rows = PLAIN_ADAPTER.encode("text", backbone.text, self.texts.inputs)["text.pooled"]
            self.frozen = self.texts.ensemble(rows)

    @property
    def normalised(self) -> Tensor:
        """The untouched model's class features, normalised: what `Adapter.prime` takes."""
        return F.normalize(self.frozen, dim=-1)

    def take(self, adapter: Adapter | None) -> None:
        """Score with an attached adapter from now on."""
        self.adapter = adapter
        if adapter is not None:
            self.texts = self._texts(adapter)

    def features(self) -> Features:
        """The adapted model's class features, `text.pooled` `[C, D]` (`[2C, D]` in multi-label data)."""
        adapter, tower = self.adapter, self._backbone.text
        if adapter is None or adapter.text_per_image:
            return {"text.pooled": self.frozen}
        if adapter.first_block("text", tower) == 0:
            features = adapter.encode("text", tower, self.texts.inputs, self._speed)
        else:
            if self._prefix is None:
                self._prefix = adapter.prefix("text", tower, self.texts.inputs, self._speed)
            features = adapter.finish("text", tower, self._prefix, self._speed)
        return {key: self.texts.ensemble(value) for key, value in features.items()}

    def of_images(self, image: Tensor) -> Tensor:
        """Class features for every image `[B, D]`, `[B, C, D]`, of adapters whose text depends on the image."""
        adapter = self.adapter or PLAIN_ADAPTER
        return self.texts.ensemble(adapter.encode_per_image(self._backbone.text, self.texts.inputs, image))

    def zero_shot(self, frozen_image: Tensor) -> Tensor:
        """Scores of the untouched model, with the temperature that it came with, `[B, C]`."""
        features = {"image.pooled": frozen_image, "text.pooled": self.frozen}
        return self.decision(PLAIN_ADAPTER.logits(features, self._scale)["image.logits"])

    def scores(self, features: Features, novel: bool = False) -> Features:
        """Scores of the adapted model, by key, `[B, C]`."""
        found = (self.adapter or PLAIN_ADAPTER).logits(features, self._backbone.scale(), novel=novel)
        return {key: self.decision(value) for key, value in found.items()}

    def decision(self, scores: Tensor) -> Tensor:
        """One logit per class: in multi-label data the yes prompts minus the no prompts."""
        if not self.multilabel:
            return scores
        yes, no = scores.chunk(2, dim=-1)
        return yes - no

    def probability(self, logits: Tensor) -> Tensor:
        """Probabilities `[B, C]`."""
        return logits.float().sigmoid() if self.multilabel else logits.float().softmax(dim=-1)

    def _texts(self, adapter: Adapter) -> ClassTexts:
        texts = ClassTexts.of(self.classes, self._prompts, self.multilabel, self._backbone.tokenize, adapter.prompt)
        return texts.to(self._device)
