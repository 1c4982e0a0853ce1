"""A trained adapter as people use it in a notebook.

model = domainvl.load("USER/NAME")
model.predict(["a.dcm", "b.png"])
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from domainvl import hub
from domainvl.adapters import Compose
from domainvl.adapters.base import Adapter, Side
from domainvl.backbones.base import Backbone
from domainvl.data.preset import Preset
from domainvl.features import Features
from domainvl.inputs import Picture, batches, several
from domainvl.progress import shown
from domainvl.speed import FAST, Speed
from domainvl.tasks.class_scores import ClassScores


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
        preset: How it takes images.
        adapter: What was learned.
        scores: What images score against the classes.
        batch_size: Images and texts that go through a tower at once.
    """

    def __init__(
        self, folder: Path | str, backbone: Backbone, device: torch.device | str = "cpu", speed: Speed = FAST
    ) -> None:
        if not isinstance(backbone.preset, Preset):
            raise TypeError(
                f"Model: {type(backbone).__name__} takes volumes, which need a recipe's data module to be read; use "
                "`python -m domainvl predict RECIPE --adapter FOLDER --images DIR`"
            )
        self.device, self.speed, self.batch_size = torch.device(device), speed, 64
        self.preset = backbone.preset
        self.backbone = backbone.requires_grad_(False).to(self.device).eval()
        card = hub.read_adapter_card(folder)
        if not card.classes:
            raise ValueError(
                f"Model: this {card.adapter} adapter was trained on texts alone and names no classes; use "
                "domainvl.hub.load_adapter, which brings adapter and backbone back"
            )
        for tower in (backbone.image, backbone.text):
            tower.onednn = speed.onednn
        # Before the adapter joins the towers: the untouched model's class features are where some methods start.
        self.scores = ClassScores(card.classes, card.multilabel, card.prompt_set(), backbone, speed)
        self.adapter, self.card = hub.load_adapter(folder, backbone, self.scores.normalised)
        parts = [*self.adapter.parts] if isinstance(self.adapter, Compose) else [self.adapter]
        if any(getattr(type(part), "pool_tiles") is not Adapter.pool_tiles for part in parts):  # noqa: B009  # a Module
            raise TypeError(
                f"Model: {card.adapter} scores whole slides, not images; use `python -m domainvl predict RECIPE "
                "--adapter FOLDER` with a recipe that reads slides"
            )
        self.adapter.requires_grad_(False).to(self.device)
        self.scores.take(self.adapter)
        with torch.no_grad():
            self.class_features: Features = self.scores.features()

    def __repr__(self) -> str:
        return f"Model({self.card.adapter} on {self.card.backbone.name!r}, {len(self.classes)} classes, {self.device})"

    @property
    def classes(self) -> list[str]:
        """Class names, the columns of `predict`."""
        return list(self.card.classes)

    def predict(self, images: Picture | Iterable[Picture]) -> np.ndarray:
        """Probabilities of `classes`, `[N, C]`; rows sum to one unless classes may occur together.

        Args:
            images: One image or any number of them: paths (JPEG, PNG, TIFF, BMP, DICOM), PIL images, arrays uint8
                `[H, W]` or `[H, W, 3]`, tensors uint8 `[3, H, W]`.
        """
        return self._of_images(images, self.probabilities, len(self.classes))

    def embed_image(self, images: Picture | Iterable[Picture]) -> np.ndarray:
        """What the adapted image tower makes of images, of unit length, `[N, D]`; see `predict` for `images`."""
        return self._of_images(images, self.unit_images, self.backbone.image.out_dim)

    def embed_text(self, texts: str | Sequence[str]) -> np.ndarray:
        """What the adapted text tower makes of texts, of unit length, `[N, D]`.

        A method that learned words around class names (CoOp) puts them around every text.
        """
        rows = [texts] if isinstance(texts, str) else list(texts)
        parts = (rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size))
        found = [self.unit_texts(part) for part in shown(parts, len(rows), "texts", "texts", len)]
        return _joined(found, self.backbone.text.out_dim)

    def logits(self, pixels: Tensor) -> Tensor:
        """Class scores `[B, C]` of uint8 pixels `[B, 3, S, S]`, see `Preset.pixels`."""
        return self._logits(self._inputs(pixels))

    def probabilities(self, inputs: Tensor) -> Tensor:
        """Probabilities `[B, C]` of what the tower takes, `[B, 3, S, S]`, on its device."""
        return self.scores.probability(self._logits(inputs))

    def unit_images(self, inputs: Tensor) -> Tensor:
        """Features `[B, D]` of unit length of what the tower takes, `[B, 3, S, S]`, on its device."""
        return self._unit("image", inputs)

    def unit_texts(self, texts: Sequence[str]) -> Tensor:
        """Features `[B, D]` of unit length of a batch of texts."""
        if self.adapter.text_per_image:
            raise TypeError(
                f"embed_text: with {self.card.adapter} texts look different to every image; only predict can use them"
            )
        template = self.adapter.prompt("{}")
        written = [template.replace("{}", text) for text in texts]
        return self._unit("text", self.backbone.tokenize(written).to(self.device))

    @torch.no_grad()
    def _logits(self, inputs: Tensor) -> Tensor:
        features = self._encoded("image", inputs)
        if self.adapter.text_per_image:
            features["text.pooled"] = self.scores.of_images(features["image.pooled"])
        else:
            features |= self.class_features
        return self.scores.scores(features)["image.logits"]

    def _of_images(
        self, images: Picture | Iterable[Picture], ask: Callable[[Tensor], Tensor], width: int
    ) -> np.ndarray:
        many, total = several(images)
        parts = batches(many, self.preset, self.batch_size)
        return _joined([ask(self._inputs(pixels)) for pixels in shown(parts, total, "images", "images", len)], width)

    def _inputs(self, pixels: Tensor) -> Tensor:
        return self.preset.normalise(pixels.to(self.device))

    @torch.no_grad()
    def _unit(self, side: Side, inputs: object) -> Tensor:
        return torch.nn.functional.normalize(self._encoded(side, inputs)[f"{side}.pooled"], dim=-1)

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

    The adapter is input and not code: see `domainvl.hub`. The model below is found by the Hub id that the adapter
    names, and compared with what it was trained on.

    Args:
        source: Adapter folder, run folder, or `USER/NAME` on the Hub.
        backbone: The model below, where it was no HuggingFace or OpenClip from the Hub, or lies in a folder.
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
