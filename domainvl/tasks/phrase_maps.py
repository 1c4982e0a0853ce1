"""Where a model sees a phrase: cosines of patches with the phrase, scored against the boxes that the data set gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor

from domainvl.adapters.base import Adapter
from domainvl.backbones.base import Backbone
from domainvl.data.boxes import Box, preset_box
from domainvl.data.preset import Preset
from domainvl.evaluation.grounding import PhraseScore, score_phrase, upsample
from domainvl.features import Features

_OUTSIDE = (-2.0, -2.0, -1.0, -1.0)
"""Stands for a box that the crop has cut away: it has no pixel, and is counted."""


class PhraseMaps:
    """Phrase grounding of one model.

    Args:
        backbone: The model.
        adapter: What phrases and images are read with.
    """

    def __init__(self, backbone: Backbone, adapter: Adapter) -> None:
        self.backbone, self.adapter = backbone, adapter
        self._features: dict[str, Tensor] = {}

    def scores(self, image: Features, boxes: Sequence[Sequence[Box]]) -> list[list[PhraseScore]]:
        """One score per phrase of every image.

        Args:
            image: `image.tokens` `[B, L, D]` and `image.grid`.
            boxes: Those of every image; boxes of one phrase count together.
        """
        phrases = [by_phrase(one) for one in boxes]
        self._read({phrase for one in phrases for phrase in one})
        grid = image["image.grid"].tolist()
        patches = F.normalize(image["image.tokens"].float(), dim=-1)
        return [
            [self._score(patches[row], grid, phrase, places) for phrase, places in one.items()]
            for row, one in enumerate(phrases)
        ]

    def _score(self, patches: Tensor, grid: Sequence[int], phrase: str, boxes: Sequence[Box]) -> PhraseScore:
        preset = self.backbone.preset
        if not isinstance(preset, Preset):
            raise TypeError(f"PhraseMaps: boxes are those of pictures, {type(self.backbone).__name__} takes volumes")
        cosines = (patches @ self._features[phrase]).view(*grid).cpu().numpy()
        places = [preset_box(box, preset) or _OUTSIDE for box in boxes]
        return score_phrase(upsample(cosines, preset.shape[1:]), places)

    def _read(self, phrases: set[str]) -> None:
        fresh = sorted(phrases - set(self._features))
        if not fresh:
            return
        inputs = self.backbone.tokenize(fresh).to(self.backbone.logit_scale.device)
        rows = self.adapter.encode("text", self.backbone.text, inputs)["text.pooled"]
        self._features |= dict(zip(fresh, F.normalize(rows.float(), dim=-1), strict=True))


def by_phrase(boxes: Sequence[Box]) -> Mapping[str, list[Box]]:
    """Boxes by what is seen in them, in the order of first appearance."""
    found: dict[str, list[Box]] = {}
    for box in boxes:
        found.setdefault(box.phrase, []).append(box)
    return found
