"""A trained adapter as people use it in a notebook.

model = domainvl.load("USER/NAME")
model.predict(["a.dcm", "b.png"])
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from domainvl import hub
from domainvl.adapters import Compose
from domainvl.adapters.base import Adapter, Side
from domainvl.backbones.base import Backbone
from domainvl.features import Features
from domainvl.inputs import Picture, SlideFeatures, inputs_of
from domainvl.progress import shown
from domainvl.speed import FAST, Speed
from domainvl.tasks.class_scores import ClassScores

_TEXTS = 64
"""Texts that go through a tower at once."""


class Model:
    """A backbone with a trained adapter, ready to be asked.

    On a GPU the towers run in half precision, on a CPU in fp32. `domainvl.load` makes one.

    Args:
        folder: Adapter folder.
        backbone: The model that it was trained on, without an adapter.
        device: Where it runs.
        speed: What may be skipped.

    Attributes:
        card: What the adapter says of itself.
        backbone: The model below.
        preset: How it takes images, or volumes.
        inputs: How images, volumes or slides are read.
        adapter: What was learned.
        batch_size: Images that go through a tower at once.
    """

    def __init__(
        self, folder: Path | str, backbone: Backbone, device: torch.device | str = "cpu", speed: Speed = FAST
    ) -> None:
        card = hub.read_adapter_card(folder)
        self.device, self.speed = torch.device(device), speed
        self.inputs = inputs_of(card, backbone)
        self.preset, self.batch_size = self.inputs.preset, self.inputs.batch_size
        self.backbone = backbone.requires_grad_(False).to(self.device).eval()
        for tower in (backbone.image, backbone.text):
            tower.onednn = speed.onednn
        # Before the adapter joins the towers: the untouched model's class features are where some methods start.
        self._scores = None
        if card.classes:
            self._scores = ClassScores(card.classes, card.multilabel, card.prompt_set(), backbone, speed)
        start = None if self._scores is None else self._scores.normalised
        self.adapter, self.card = hub.load_adapter(folder, backbone, start)
        parts = [*self.adapter.parts] if isinstance(self.adapter, Compose) else [self.adapter]
        pools = any(getattr(type(part), "pool_tiles") is not Adapter.pool_tiles for part in parts)  # noqa: B009  # a Module
        if pools and not isinstance(self.inputs, SlideFeatures):
            raise TypeError(
                f"Model: {card.adapter} scores whole slides, and its folder does not say how they were cut into tiles; "
                "use `python -m domainvl predict RECIPE --adapter FOLDER` with a recipe that reads slides"
            )
        self.adapter.requires_grad_(False).to(self.device)
        self.class_features: Features = {}
        if self._scores is not None:
            self._scores.take(self.adapter)
            with torch.no_grad():
                self.class_features = self._scores.features()

    def __repr__(self) -> str:
        return f"Model({self.card.adapter} on {self.card.backbone.name!r}, {len(self.classes)} classes, {self.device})"

    @property
    def classes(self) -> list[str]:
        """Class names, the columns of `predict`."""
        return list(self.card.classes)

    @property
    def scores(self) -> ClassScores:
        """What images score against the classes."""
        if self._scores is None:
            raise TypeError(
                f"Model: this {self.card.adapter} adapter was trained on texts alone and names no classes, so there is "
                "nothing to predict; compare embed_image with embed_text"
            )
        return self._scores

    def predict(self, images: Picture | Iterable[Picture]) -> np.ndarray:
        """Probabilities of `classes`, `[N, C]`; rows sum to one unless classes may occur together.

        Args:
            images: One or any number of what the adapter was trained on. Images: paths (JPEG, PNG, TIFF, BMP, DICOM),
                PIL images, arrays uint8 `[H, W]` or `[H, W, 3]`, tensors uint8 `[3, H, W]`. CT volumes: paths of NIfTI,
                NRRD, MetaImage or npz files, or of a DICOM series' folder. Slides: the feature files of
                `python -m domainvl embed`.
        """
        _ = self.scores
        return self._of_images(images, lambda pixels: self.scores.probability(self.logits(pixels)), len(self.classes))

    def embed_image(self, images: Picture | Iterable[Picture]) -> np.ndarray:
        """What the adapted image tower makes of images, of unit length, `[N, D]`; see `predict` for `images`."""
        return self._of_images(images, self.unit_images, self.backbone.image.out_dim)

    def embed_text(self, texts: str | Sequence[str]) -> np.ndarray:
        """What the adapted text tower makes of texts, of unit length, `[N, D]`.

        A method that learned words around class names (CoOp) puts them around every text.
        """
        rows = [texts] if isinstance(texts, str) else list(texts)
        parts = (rows[start : start + _TEXTS] for start in range(0, len(rows), _TEXTS))
        found = [self.unit_texts(part) for part in shown(parts, len(rows), "texts", "texts", len)]
        return _joined(found, self.backbone.text.out_dim)

    @torch.no_grad()
    def logits(self, pixels: Any) -> Tensor:
        """Class scores `[B, C]` of a batch of `inputs`: for images uint8 `[B, 3, S, S]`, see `Preset.pixels`."""
        features = self._image(pixels)
        if self.adapter.text_per_image:
            features["text.pooled"] = self.scores.of_images(features["image.pooled"])
        else:
            features |= self.class_features
        return self.scores.scores(features)["image.logits"]

    @torch.no_grad()
    def unit_images(self, batch: Any) -> Tensor:
        """Features `[B, D]` of unit length of a batch of `inputs`, see `logits`."""
        features = self._image(batch)
        if "image.pooled" not in features:
            raise TypeError(
                f"embed_image: {self.card.adapter} makes no feature of a slide in the space of texts; use predict"
            )
        return F.normalize(features["image.pooled"], dim=-1)

    @torch.no_grad()
    def unit_texts(self, texts: Sequence[str]) -> Tensor:
        """Features `[B, D]` of unit length of a batch of texts."""
        if self.adapter.text_per_image:
            raise TypeError(
                f"embed_text: with {self.card.adapter} texts look different to every image; only predict can use them"
            )
        template = self.adapter.prompt("{}")
        inputs = self.backbone.tokenize([template.replace("{}", text) for text in texts]).to(self.device)
        return F.normalize(self._encoded("text", inputs)["text.pooled"], dim=-1)

    def _of_images(self, images: Picture | Iterable[Picture], ask: Callable[[Any], Tensor], width: int) -> np.ndarray:
        many, total = self.inputs.several(images)
        noun = f"{self.inputs.noun}s"
        parts = map(ask, self.inputs.batches(many, self.batch_size))
        return _joined(list(shown(parts, total, noun, noun, len)), width)

    def _image(self, batch: Any) -> Features:
        """What the adapted image side makes of a batch of `inputs`."""
        if not isinstance(self.inputs, SlideFeatures):
            return self._encoded("image", self.preset.normalise(batch.to(self.device)))
        tiles, deep = (batch[key].to(self.device).float() for key in ("bag", "bag@deep"))
        bag: Features = {"image.tokens": tiles, "image@deep.tokens": deep, "image.mask": batch["keep"].to(self.device)}
        return bag | self.adapter.pool_tiles(bag)

    def _encoded(self, side: Side, inputs: object) -> Features:
        tower = self.backbone.image if side == "image" else self.backbone.text
        with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
            features = self.adapter.encode(side, tower, inputs, self.speed)
        return {key: value.float() if value.is_floating_point() else value for key, value in features.items()}


def load(
    source: str | os.PathLike[str],
    *,
    backbone: Backbone | None = None,
    revision: str | None = None,
    device: torch.device | str | None = None,
) -> Model:
    """A trained adapter and the model below it.

    The adapter is input and not code: see `domainvl.hub`. The model below is made again as the adapter says, from the
    Hub or from this package, and compared with what it was trained on.

    Args:
        source: Adapter folder, run folder, or `USER/NAME` on the Hub.
        backbone: The model below, where it came from a folder; the error says how it was made.
        revision: Branch, tag or commit of `source` on the Hub.
        device: Where it runs; a GPU where there is one when None.
    """
    folder = hub.located(source, revision)
    card = hub.read_adapter_card(folder)
    chosen = device if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    return Model(folder, hub.backbone_of(card) if backbone is None else backbone, chosen)


def _joined(found: Sequence[Tensor], width: int) -> np.ndarray:
    """Rows `[N, width]` as an array."""
    return torch.cat([part.float().cpu() for part in found]).numpy() if found else np.zeros((0, width), np.float32)
