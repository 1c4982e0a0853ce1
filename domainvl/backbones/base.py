"""A pretrained vision-language model: two towers, a tokenizer, a preprocessing preset and a temperature."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from domainvl.backbones._structure import Places, with_structure
from domainvl.data.preset import Preset
from domainvl.features import TextInputs
from domainvl.towers.base import Tower

if TYPE_CHECKING:
    from domainvl.data.volumes.preset import VolumePreset


@dataclass(frozen=True)
class BackboneSpec:
    """Which model it is; stored with every adapter and compared when one is loaded.

    Attributes:
        kind: Name of the Backbone class.
        name: Hub id, local folder name or `builtin:tiny`; never an absolute path.
        revision: Commit of the Hub repository, if it is known.
        weights: Twelve hex digits over the loaded weights, so that two models of one name are told apart.
        preset: Digest of the preprocessing.
        reading: How texts are read (pooling, length, instruction), where the recipe says it and not the checkpoint.
    """

    kind: str
    name: str
    revision: str | None
    weights: str
    preset: str
    reading: str = ""

    @property
    def digest(self) -> str:
        """Twelve hex digits over weights and reading: what features depend on besides the preset."""
        if not self.reading:
            return self.weights
        return hashlib.sha256(f"{self.weights} {self.reading}".encode()).hexdigest()[:12]

    def as_dict(self) -> dict[str, str | None]:
        """Plain values for JSON."""
        return asdict(self)


class Backbone(nn.Module, ABC):
    """Base of all backbones.

    Attributes:
        image: The image tower.
        text: The text tower.
        logit_scale: Log of the temperature, a scalar.
        logit_bias: Bias of sigmoid models, or None.
        preset: Preprocessing of images or volumes.
    """

    image: Tower
    text: Tower
    logit_scale: nn.Parameter
    logit_bias: nn.Parameter | None
    preset: Preset | VolumePreset

    @property
    @abstractmethod
    def library(self) -> nn.Module:
        """The library's own model, whose submodules the towers call; PEFT adapters are injected here."""

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> TextInputs:
        """Texts to ids, cut after the longest text where that changes nothing."""

    def places(self, texts: Sequence[str], ids: Tensor) -> list[Places]:
        """Where in its text every token of `tokenize(texts).ids` comes from."""
        raise TypeError(f"{type(self).__name__} does not say which characters a token was made from")

    def structured(self, texts: Sequence[str]) -> TextInputs:
        """As `tokenize`, with the words and sentences that tokens belong to."""
        inputs = self.tokenize(texts)
        return with_structure(inputs, texts, self.places(texts, inputs.ids))

    @abstractmethod
    def spec(self) -> BackboneSpec:
        """Which model this is."""

    def config(self) -> dict[str, Any]:
        """The constructor's arguments: plain values, presets and backbones, and `Place` for what lies somewhere.

        An adapter folder keeps them, so that whoever loads it need not know them; empty where nobody could use them.
        """
        return {}

    def write(self, folder: Path) -> None:
        """Write the model as it is now, in its own format, so that `type(self)(str(folder))` reads it."""
        raise TypeError(f"{type(self).__name__} has no format that is written here; HuggingFace and OpenClip have")

    def blank(self) -> Tensor:
        """One empty input of the image tower, `[1, C, ...]`."""
        if not isinstance(self.preset, Preset):
            raise NotImplementedError(f"{type(self).__name__}: blank() must return one empty volume")
        return torch.zeros(1, 3, self.preset.size, self.preset.size, device=self.logit_scale.device)

    def scale(self) -> Tensor:
        """The factor that cosines are multiplied with, a scalar (some checkpoints hold it as `[1]`)."""
        return self.logit_scale.exp().reshape(())
