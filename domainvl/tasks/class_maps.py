"""Where in a picture the patches resemble a class's text: what both models look like to a class name.

In multi-label data a map is the cosine with the yes prompts minus that with the no prompts; otherwise the cosine with
the class minus its mean over classes. It shows what patches have in common with a text, not why a decision was made.
"""

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
from domainvl.tasks.class_scores import PLAIN_ADAPTER, ClassScores
from domainvl.tasks.pairs import PairPass


class ClassMaps:
    """Maps of all classes, by the untouched and by the adapted model.

    Args:
        classes: Names, in the order of labels.
        multilabel: Whether an image may show several at once.
        prompts: Sentences that stand for a class.
        backbone: The model; its image tower must have local features.
        adapter: What was learned, attached; None for the untouched model alone.
        speed: What may be skipped.
    """

    def __init__(
        self,
        classes: Sequence[str],
        multilabel: bool,
        prompts: PromptSet,
        backbone: Backbone,
        adapter: Adapter | None,
        speed: Speed,
    ) -> None:
        self.backbone, self.adapter, self.multilabel = backbone, adapter, multilabel
        with (adapter or PLAIN_ADAPTER).off():
            self._scores = ClassScores(classes, multilabel, prompts, backbone, speed)
        self._scores.take(adapter)
        self._pass = PairPass(backbone, adapter, speed, ())

    @torch.no_grad()
    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """Maps by model, `zero_shot` and where there is one `adapted`: `[B, C, H, W]`, of volumes `[B, C, D, H, W]`."""
        with (self.adapter or PLAIN_ADAPTER).off():
            found = {"zero_shot": self._maps(self._encoded(PLAIN_ADAPTER, image), self._scores.frozen)}
        if self.adapter is not None:
            features = self._encoded(self.adapter, image)
            if self.adapter.text_per_image:
                text = self._scores.of_images(features["image.pooled"])
            else:
                text = self._scores.features()["text.pooled"]
            found["adapted"] = self._maps(features, text)
        return found

    def _encoded(self, adapter: Adapter, image: Tensor) -> Features:
        return self._pass.encode(adapter, "image", image, tokens=True)

    def _maps(self, features: Features, text: Tensor) -> Tensor:
        patches = F.normalize(features["image.tokens"].float(), dim=-1)
        cosines = patches @ F.normalize(text.float(), dim=-1).transpose(-1, -2)
        if self.multilabel:
            yes, no = cosines.chunk(2, dim=-1)
            maps = yes - no
        else:
            maps = cosines - cosines.mean(dim=-1, keepdim=True)
        return maps.transpose(1, 2).unflatten(-1, features["image.grid"].tolist())
