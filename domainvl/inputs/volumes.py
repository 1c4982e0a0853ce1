"""CT volumes: NIfTI, NRRD, MetaImage and npz files, and folders with a DICOM series."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from domainvl.data.rejects import UnreadableImage
from domainvl.data.volumes.plan import Crop, Region, VolumePlan
from domainvl.data.volumes.preset import VolumePreset
from domainvl.data.volumes.volume import Volume
from domainvl.inputs.base import Inputs, unreadable


class Volumes(Inputs):
    """Volumes, prepared as those of the training; nothing of them is kept on disk.

    Args:
        preset: Preprocessing.
        crop: What is kept of a volume.
        region: What has to be in it.
    """

    preset: VolumePreset
    noun = "volume"
    batch_size = 4

    def __init__(self, preset: VolumePreset, crop: Crop = "none", region: Region = "any") -> None:
        self.preset, self.plan = preset, VolumePlan.of(preset, crop, region)

    def open(self, number: int, item: object) -> Tensor:
        """Hounsfield units int16 `[D, H, W]`."""
        path = self.path(number, item)
        # Readers stand above this package, so they are looked up and not imported.
        reader: Callable[[Path], Volume] = importlib.import_module("data_modules.readers.volume").read_volume
        try:
            voxels, _ = self.plan.prepare(reader(path))
        except UnreadableImage as error:
            raise unreadable(path, error) from None
        return self.preset.fit(torch.from_numpy(voxels))

    def stack(self, items: list[Tensor]) -> Tensor:
        """Hounsfield units int16 `[B, D, H, W]`."""
        return torch.stack(items)
