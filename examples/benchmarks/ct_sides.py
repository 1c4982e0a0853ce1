"""The sides of `ct.py`: what each library does, in its usual way, with one thread."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# The package need not be installed to be measured.
sys.path.insert(0, str(Path(__file__).parents[2]))

PATCHES = 4
LOW, HIGH = -1000, 1000


@dataclass(frozen=True)
class Setting:
    """One comparison. Triples are slices, rows, columns.

    Attributes:
        folder: Holds the volume and what the sides write.
        spacing: Of the prepared volume.
        size: Of the prepared volume.
        window: Of a crop.
        crops: Windows per measurement, a multiple of four.
    """

    folder: Path
    spacing: tuple[float, float, float]
    size: tuple[int, int, int]
    window: tuple[int, int, int]
    crops: int

    @property
    def source(self) -> Path:
        """The volume as a scanner's archive has it."""
        return self.folder / "scan.nii.gz"

    @property
    def prepared(self) -> Path:
        """The prepared volume, `[D, H, W]`."""
        return self.folder / "out-ours.npy"

    @classmethod
    def made(cls, folder: Path, tiny: bool, crops: int) -> Setting:
        """Write the volume: a noisy trunk with lungs in air."""
        import SimpleITK as sitk

        shape, spacing = ((40, 64, 64), (7.5, 5.6, 5.6)) if tiny else ((300, 512, 512), (1.0, 0.7, 0.7))
        z, y, x = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j, -1 : 1 : shape[2] * 1j]
        voxels = np.full(shape, -1000, np.int16)
        noise = np.random.default_rng(0).normal(0, 15, shape).astype(np.int16)
        body = np.broadcast_to((x / 0.85) ** 2 + (y / 0.65) ** 2 < 1, shape)
        voxels[body] = 40 + noise[body]
        for side in (-1, 1):
            lung = ((x - side * 0.4) / 0.28) ** 2 + (y / 0.45) ** 2 + (z / 0.8) ** 2 < 1
            voxels[lung] = -850 + noise[lung]
        image = sitk.GetImageFromArray(voxels)
        image.SetSpacing(spacing[::-1])
        setting = (
            cls(folder, (11.0, 6.0, 6.0), (28, 60, 60), (14, 32, 22), crops)
            if tiny
            else cls(folder, (1.5, 0.75, 0.75), (240, 480, 480), (112, 256, 176), crops)
        )
        sitk.WriteImage(image, str(setting.source), True, 6)
        return setting


def measure(part: str, name: str, setting: Setting, pipe: Any) -> None:
    """Run one side in this process and send what it took."""
    work = _READY[part, name](setting)
    began = time.process_time()
    count = work()
    seconds = (time.process_time() - began) / count
    pipe.send({"seconds": seconds, "peak": peak_mib()})
    pipe.close()


def peak_mib() -> float:
    """Largest resident size of this process, not of its parent, which Linux counts in getrusage."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


Ready = Callable[[], int]


def ours_prepare(setting: Setting) -> Ready:
    """Read, check, turn, resample, write, hash."""
    import SimpleITK  # noqa: F401

    from data_modules.readers.volume import read_volume
    from domainvl.data.volumes.plan import VolumePlan
    from domainvl.data.volumes.store import Entry, Job, VolumeStore, key_of

    plan = VolumePlan(setting.spacing, setting.size)
    store = VolumeStore(setting.folder / f"store-{os.getpid()}", plan)

    def work() -> int:
        job = Job(key_of([setting.source]), lambda: read_volume(setting.source))
        (entry,) = store.prepare([job])
        if not isinstance(entry, Entry):
            raise SystemExit(f"ours: {entry}")
        entry.path.replace(setting.prepared)
        return 1

    return work


def monai_chain(setting: Setting, dtype: Any) -> Any:
    """MONAI's usual deterministic transforms, from file to windowed volume."""
    from monai import transforms as mt

    return mt.Compose(
        [
            mt.LoadImaged("image", image_only=True, dtype=dtype),
            mt.EnsureChannelFirstd("image"),
            mt.Orientationd("image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            mt.Spacingd("image", pixdim=setting.spacing[::-1], mode="bilinear", dtype=dtype),
            mt.ResizeWithPadOrCropd("image", setting.size[::-1], value=-1024),
        ]
    )


def monai_prepare(kind: str) -> Callable[[Setting], Ready]:
    """With MONAI's defaults, or in float32."""

    def ready(setting: Setting) -> Ready:
        import nibabel  # noqa: F401

        chain = monai_chain(setting, np.float64 if kind == "MONAI" else np.float32)

        def work() -> int:
            volume = chain({"image": str(setting.source)})["image"]
            out = setting.folder / f"out-{kind}.npy"
            if not out.exists():
                np.save(out, np.transpose(volume[0].numpy(), (2, 1, 0)).astype(np.float32))
            return 1

        return work

    return ready


def torchio_prepare(setting: Setting) -> Ready:
    """TorchIO's usual chain."""
    import torchio as tio

    chain = tio.Compose(
        [
            tio.ToCanonical(),
            tio.Resample(setting.spacing[::-1]),
            tio.CropOrPad(setting.size[::-1], padding_mode=-1024),
        ]
    )

    def work() -> int:
        volume = chain(tio.Subject(image=tio.ScalarImage(setting.source)))["image"].data
        out = setting.folder / "out-TorchIO.npy"
        if not out.exists():
            np.save(out, np.transpose(volume[0].numpy(), (2, 1, 0)).astype(np.float32))
        return 1

    return work


def ours_crop(finished: bool) -> Callable[[Setting], Ready]:
    """Windows from the mapped store, stacked, and then normalised as data modules do; or stacked alone, int16."""

    def ready(setting: Setting) -> Ready:
        import torch

        from domainvl.data.volumes.preset import VolumePreset
        from domainvl.data.volumes.store import Entry

        entry = Entry(setting.prepared, setting.size, (), "")
        int(entry.voxels().sum(dtype=np.int64))
        starts = _starts(setting)
        preset = VolumePreset("", setting.spacing[::-1], setting.window, ((LOW, HIGH),))

        def work() -> int:
            for pair in zip(starts[::2], starts[1::2], strict=True):
                batch = torch.stack([entry.crop(start, setting.window, preset.air) for start in pair])
                if finished:
                    preset.normalise(batch)
            return len(starts)

        return work

    return ready


def monai_crop(cache: str) -> Callable[[Setting], Ready]:
    """Random crops behind one of MONAI's caches; filling it is not counted."""

    def ready(setting: Setting) -> Ready:
        import monai.data as md
        import nibabel as nib
        from monai import transforms as mt

        volume = setting.folder / "prepared.nii"
        if not volume.exists():
            voxels = np.transpose(np.load(setting.prepared), (2, 1, 0))
            nib.save(nib.Nifti1Image(voxels, np.diag([*setting.spacing[::-1], 1.0])), volume)
        chain = mt.Compose(
            [
                mt.LoadImaged("image", image_only=True),
                mt.EnsureChannelFirstd("image"),
                mt.ScaleIntensityRanged("image", LOW, HIGH, 0, 1, clip=True),
                mt.RandSpatialCropd("image", setting.window[::-1], random_size=False),
            ]
        )
        items = [{"image": str(volume)}]
        if cache == "persistent":
            data: Any = md.PersistentDataset(items, chain, cache_dir=setting.folder / "persistent")
        elif cache == "cache":
            data = md.CacheDataset(items, chain, progress=False, num_workers=1)
        else:
            data = md.CacheDataset(items, chain, progress=False, num_workers=1, copy_cache=False)
        data[0]

        def work() -> int:
            for _ in range(setting.crops // 2):
                md.list_data_collate([data[0], data[0]])
            return setting.crops

        return work

    return ready


def torchio_crop(setting: Setting) -> Ready:
    """Four random patches from each load of the prepared volume."""
    import nibabel as nib
    import torch
    import torchio as tio

    volume = setting.folder / "prepared.nii"
    if not volume.exists():
        voxels = np.transpose(np.load(setting.prepared), (2, 1, 0))
        nib.save(nib.Nifti1Image(voxels, np.diag([*setting.spacing[::-1], 1.0])), volume)
    sampler = tio.UniformSampler(setting.window[::-1])
    clamp = tio.Clamp(LOW, HIGH)

    def work() -> int:
        count = 0
        while count < setting.crops:
            subject = clamp(tio.Subject(image=tio.ScalarImage(volume)))
            patches = [patch["image"].data.float() for patch in sampler(subject, PATCHES)]
            torch.stack(patches[:2])
            torch.stack(patches[2:])
            count += PATCHES
        return count

    work()
    return work


def _starts(setting: Setting) -> Sequence[tuple[int, int, int]]:
    rng = np.random.default_rng(1)
    rooms = [whole - part for whole, part in zip(setting.size, setting.window, strict=True)]
    return [tuple(int(rng.integers(0, room + 1)) for room in rooms) for _ in range(setting.crops)]  # type: ignore[misc]


_READY: dict[tuple[str, str], Callable[[Setting], Ready]] = {
    ("prepare", "ours"): ours_prepare,
    ("prepare", "MONAI"): monai_prepare("MONAI"),
    ("prepare", "MONAI, float32"): monai_prepare("MONAI, float32"),
    ("prepare", "TorchIO"): torchio_prepare,
    ("crop", "ours"): ours_crop(True),
    ("crop", "ours, int16, before its window"): ours_crop(False),
    ("crop", "MONAI PersistentDataset"): monai_crop("persistent"),
    ("crop", "MONAI CacheDataset"): monai_crop("cache"),
    ("crop", "MONAI CacheDataset, copy_cache=False"): monai_crop("cache, no copy"),
    ("crop", "TorchIO"): torchio_crop,
}
_NEEDS = {"MONAI": ["nibabel"], "TorchIO": ["nibabel", "torchio"]}
SIDES: dict[str, dict[str, list[str]]] = {
    part: {
        name: next((needs for library, needs in _NEEDS.items() if name.startswith(library)), [])
        for other, name in _READY
        if other == part
    }
    for part in ("prepare", "crop")
}
"""Sides by part, and the libraries that they need beyond our own."""
