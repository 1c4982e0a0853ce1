"""Any 2-D backbone lifted to volumes: slice by slice, or with 3-D patches. The text side stays as it is."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from domainvl.backbones._loading import weights_digest
from domainvl.backbones.base import Backbone, BackboneSpec
from domainvl.data.preset import Preset
from domainvl.data.volumes.preset import VolumePreset
from domainvl.features import TextInputs
from domainvl.towers.base import Tower
from domainvl.towers.inflate import DepthPositions, Inflated, PatchInit
from domainvl.towers.slices import Slices


class VolumeBackbone(Backbone, ABC):
    """A backbone for volumes."""

    preset: VolumePreset

    def blank(self) -> Tensor:
        """See `Backbone.blank`."""
        return torch.zeros(1, *self.preset.shape, device=self.logit_scale.device)


class _Lifted(VolumeBackbone, ABC):
    def __init__(self, base: Backbone, preset: VolumePreset, normalise_as_base: bool) -> None:
        super().__init__()
        name = type(self).__name__
        if not isinstance(base.preset, Preset):
            raise TypeError(
                f"{name}: base must be a backbone for pictures, {type(base).__name__} takes volumes already"
            )
        if len(preset.windows) not in (1, len(base.preset.mean)):
            raise ValueError(
                f"{name}: the preset must have one window, or {len(base.preset.mean)} for the colours of "
                f"{type(base).__name__}; got {len(preset.windows)}"
            )
        if normalise_as_base:
            mean, std = base.preset.mean, base.preset.std
            if len(preset.windows) == 1:
                mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
            preset = replace(preset, mean=mean, std=std)
        self.base, self.preset = base, preset
        self.text: Tower = base.text
        self.logit_scale, self.logit_bias = base.logit_scale, base.logit_bias

    @property
    def library(self) -> nn.Module:
        """See `Backbone.library`: that of the 2-D backbone."""
        return self.base.library

    def tokenize(self, texts: Sequence[str]) -> TextInputs:
        """See `Backbone.tokenize`."""
        return self.base.tokenize(texts)

    def spec(self) -> BackboneSpec:
        """The 2-D model's name, what was made of it, and the volumes' preset."""
        base = self.base.spec()
        weights, preset = self._weights(base), self.preset.digest
        return BackboneSpec(type(self).__name__, base.name, base.revision, weights, preset, base.reading)

    def _weights(self, base: BackboneSpec) -> str:
        return base.weights

    def config(self) -> dict[str, Any]:
        """See `Backbone.config`; mean and std are in the preset."""
        return {"base": self.base, "preset": self.preset, "normalise_as_base": False}


class SliceVolume(_Lifted):
    """A 2-D backbone over the slices of a volume; see `domainvl.towers.slices`.

    Args:
        base: The 2-D backbone.
        preset: Preprocessing of volumes; H and W are what the 2-D model takes, D is free.
        chunk: Most slices that go through a block at a time; None for all.
        normalise_as_base: Take mean and std from the 2-D model's own preset, averaged over colours for one window.
    """

    def __init__(
        self, base: Backbone, preset: VolumePreset, chunk: int | None = None, normalise_as_base: bool = True
    ) -> None:
        super().__init__(base, preset, normalise_as_base)
        side = base.preset.size
        if preset.size[1:] != (side, side):
            raise ValueError(
                f"SliceVolume: slices of this model are {side} x {side}, the preset's size is {preset.size}"
            )
        self.image = Slices(base.image, chunk)
        self._chunk = chunk
        self.eval()

    def config(self) -> dict[str, Any]:
        """See `Backbone.config`."""
        return {**super().config(), "chunk": self._chunk}


class InflatedVolume(_Lifted):
    """A 2-D vision transformer over 3-D patches; see `domainvl.towers.inflate`.

    Args:
        base: The 2-D backbone.
        preset: Preprocessing of volumes.
        patch_depth: Slices in a patch.
        init: How the patch embedding starts.
        positions: The term for depth.
        normalise_as_base: Take mean and std from the 2-D model's own preset, averaged over colours for one window.
    """

    def __init__(
        self,
        base: Backbone,
        preset: VolumePreset,
        patch_depth: int,
        init: PatchInit = "mean",
        positions: DepthPositions = "sinusoidal",
        normalise_as_base: bool = True,
    ) -> None:
        super().__init__(base, preset, normalise_as_base)
        self.image = Inflated(base.image, preset.size, patch_depth, len(preset.windows), init, positions)
        self._patches = {"patch_depth": patch_depth, "init": init, "positions": positions}
        # Before anything is trained: an adapter belongs to this start.
        self._digest = weights_digest(self.image)
        self.eval()

    def config(self) -> dict[str, Any]:
        """See `Backbone.config`."""
        return {**super().config(), **self._patches}

    def _weights(self, base: BackboneSpec) -> str:
        return self._digest
