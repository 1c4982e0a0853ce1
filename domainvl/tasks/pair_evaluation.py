"""What an evaluation asks both models, the untouched and the adapted one, of every pair of image and report."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from domainvl.adapters.base import Adapter
from domainvl.data.boxes import Box
from domainvl.evaluation.retrieval import RetrievalProtocol
from domainvl.features import Batch, Features
from domainvl.tasks.class_scores import PLAIN_ADAPTER, ClassScores
from domainvl.tasks.organ_pass import OrganPass
from domainvl.tasks.organ_scores import OrganScores
from domainvl.tasks.pairs import PairPass, Part
from domainvl.tasks.phrase_maps import PhraseMaps
from domainvl.tasks.rows import array


class PairEvaluation:
    """One evaluation from its first batch to its last, through which class features and phrases stay the same.

    Args:
        pairs: Both towers.
        scores: Class names, and how they are scored with and without what was learned.
        class_features: What the adapted model makes of the class names.
        organs: The organs that `organ_scores` reads.
        organ_scores: Classes that are also looked for in their organ alone.
        retrieval: How reports are worded.
        novel: Whether the adapter was trained on other classes.
    """

    def __init__(
        self,
        pairs: PairPass,
        scores: ClassScores,
        class_features: Features,
        organs: OrganPass,
        organ_scores: OrganScores,
        retrieval: RetrievalProtocol,
        novel: bool,
    ) -> None:
        self._pairs, self._scores, self._class_features, self._novel = pairs, scores, class_features, novel
        self._organs, self._organ_scores, self._retrieval = organs, organ_scores, retrieval
        self._adapter = scores.adapter
        self._maps = {"zero_shot": PhraseMaps(pairs.backbone, PLAIN_ADAPTER)}
        if self._adapter is not None:
            self._maps["adapted"] = PhraseMaps(pairs.backbone, self._adapter)

    def row(self, batch: Batch, boxes: Sequence[Sequence[Box]]) -> dict[str, Any]:
        """What is kept of a batch: who it is, and `zero_shot/...` and `adapted/...`.

        Args:
            batch: Images, and texts where there are any.
            boxes: Where phrases are true, of every image.
        """
        row: dict[str, Any] = {"id": batch["id"], "patient": batch["patient"]}
        for key in ("index", "label", "valid", "study"):
            if key in batch:
                row[key] = array(batch[key])
        if "text" in batch:
            row["text"] = self._asked(batch)
        seen = {name: self._seen(batch, boxes, name) for name in self._maps}
        return row | {f"{name}/{key}": value for name, found in seen.items() for key, value in found.items()}

    def _seen(self, batch: Batch, boxes: Sequence[Sequence[Box]], name: str) -> dict[str, Any]:
        """What one of the two models makes of a batch."""
        maps = self._maps[name]
        with nullcontext() if self._adapter is None or name == "adapted" else self._adapter.off():
            image = self._pairs.encode(maps.adapter, "image", batch["image"], any(boxes) or bool(self._organs))
            found: dict[str, Any] = {"image": array(image["image.pooled"])}
            if "text" in batch:
                found["text"] = self._said(maps.adapter, self._asked(batch))
            if any(boxes):
                found["phrases"] = maps.scores(image, boxes)
        if self._scores.classes:
            found["probability"] = array(self._probability(image, name))
        if self._organs and "organs" in batch:
            of_organs = self._organs.features(image, batch["organs"])
            by_organ = self._organ_scores.found(of_organs, partial(self._probability, name=name))
            found["by_organ"], found["organ_valid"] = (array(value) for value in by_organ)
        return found

    def _asked(self, batch: Batch) -> list[list[str]]:
        """The texts of every image, as the protocol words them."""
        texts = batch["every_text"] if "every_text" in batch else [[text] for text in batch["text"]]
        return [[self._retrieval.worded(text) for text in one] for one in texts]

    def _said(self, adapter: Adapter, texts: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """What one of the two models makes of the texts of every image, `[texts of it, D]` each."""
        every, parts = [text for one in texts for text in one], []
        # As many at once as there are images.
        for start in range(0, len(every), len(texts)):
            inputs = self._pairs.inputs(Part("text"), {"text": every[start : start + len(texts)]})
            parts.append(array(self._pairs.encode(adapter, "text", inputs)["text.pooled"]))
        ends = np.cumsum([len(one) for one in texts])
        return np.split(np.concatenate(parts), ends[:-1])

    def _probability(self, image: Features, name: str) -> Tensor:
        """Probabilities of classes, `[B, C]`, of what is under `image.pooled`."""
        pooled = image["image.pooled"]
        if name == "zero_shot" or self._adapter is None:
            return self._scores.probability(self._scores.zero_shot(pooled))
        per_image = self._adapter.text_per_image
        text = {"text.pooled": self._scores.of_images(pooled)} if per_image else self._class_features
        return self._scores.probability(self._scores.scores(image | text, novel=self._novel)["image.logits"])
