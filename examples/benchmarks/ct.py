"""Preparing and cropping CT volumes: ours beside MONAI's chain and caches and TorchIO, on the same voxels, in one run.

    pip install nibabel torchio
    python examples/benchmarks/ct.py

Every measurement runs in a process of its own with one thread; the sides take turns, round by round, so that whatever
else the machine does hits all of them. Times are processor time (user and system) of the work alone, without imports;
memory is the largest resident size of the process, imports included. Medians of --rounds rounds, with their range.

`prepare` goes from a .nii.gz (512 x 512 x 300, int16, turned to the back and left) to RAS, 0.75 x 0.75 x 1.5 mm,
480 x 480 x 240 voxels. Ours checks geometry and values, writes the volume into the store, flushed, and hashes it; the
others hold it in memory. MONAI runs with its defaults (float64) and with float32.

`crop` takes random 112 x 256 x 176 windows from a prepared volume, warm, and stacks them into batches of two, because
a crop that is a view costs nothing until then. PersistentDataset reads float32 .pt files; CacheDataset holds float32
in memory and copies each volume before random transforms unless copy_cache=False; TorchIO reads the prepared volume
as .nii and draws four patches from each. All end with the same batch: float32 `[2, 1, D, H, W]` in 0..1. Ours leave the
loader as int16, and the device makes them float32; here the CPU does it, and it counts. The row below shows what is
left where a GPU does it.

Sides whose library is not installed are left out and named.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import platform
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ct_sides import PATCHES, SIDES, Setting, measure
from fewshot import processor

TARGETS = {
    ("prepare", "MONAI"): "at least 4x",
    ("crop", "MONAI PersistentDataset"): "at least 10x",
    ("crop", "MONAI CacheDataset"): "at least 10x",
    ("crop", "MONAI CacheDataset, copy_cache=False"): "at least 0.25x",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--crops", type=int, default=20, help="windows per round, a multiple of 4")
    parser.add_argument("--tiny", action="store_true", help="small volumes, to see that everything runs")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    if options.crops < 4 or options.crops % 4:
        parser.error(f"--crops {options.crops} is no multiple of 4")
    missing = [name for name in ("nibabel", "torchio") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"not installed, so their sides are left out: {', '.join(missing)} (MONAI reads NIfTI with nibabel)")
    print(
        f"{processor()}, {platform.system()}, Python {platform.python_version()}, one thread per process, load "
        f"{', '.join(f'{value:.1f}' for value in os.getloadavg())}"
    )
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own as well: what it needs would be counted as the children's.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            setting = pool.apply(Setting.made, (Path(folder), options.tiny, options.crops))
        for part in ("prepare", "crop"):
            names = [name for name, needs in SIDES[part].items() if not set(needs) & set(missing)]
            found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
            for _ in range(options.rounds):
                for name in names:
                    found[name].append(alone(part, name, setting))
            report(part, found, options.rounds)
            if part == "prepare":
                same_voxels(setting)
    print(f"load {', '.join(f'{value:.1f}' for value in os.getloadavg())}")


def alone(part: str, name: str, setting: Setting) -> dict[str, float]:
    """One measurement in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=measure, args=(part, name, setting, theirs))
    worker.start()
    theirs.close()
    try:
        answer: dict[str, float] = ours.recv()
    except EOFError:
        raise SystemExit(f"{name} stopped; its error stands above") from None
    worker.join()
    return answer


def report(part: str, found: Mapping[str, Sequence[Mapping[str, float]]], rounds: int) -> None:
    """Median and range, and how many times ours is cheaper."""
    first = next(iter(found))
    base = {name: statistics.median(one["seconds"] for one in values) for name, values in found.items()}
    memory = statistics.median(one["peak"] for one in found[first])
    unit, scale = ("s", 1.0) if part == "prepare" else ("ms", 1000.0)
    print(f"\n{part}, CPU {unit} per {'volume' if part == 'prepare' else 'window'} (n = {rounds})")
    heads = f"{'to ours':>8} {'peak MiB':>9} {'share':>6}"
    print(f"{'':38} {'median':>8} {'(range)':>17} {heads}")
    for name, values in found.items():
        seconds = [one["seconds"] * scale for one in values]
        middle, peak = statistics.median(seconds), statistics.median(one["peak"] for one in values)
        span = f"({min(seconds):.2f}-{max(seconds):.2f})"
        aim = TARGETS.get((part, name))
        ratio = f"{base[name] / base[first]:7.2f}x"
        note = f"  aimed at: {aim}" if aim else ""
        print(f"{name:38} {middle:8.2f} {span:>17} {ratio} {peak:9.0f} {memory / peak:6.2f}{note}", flush=True)


def same_voxels(setting: Setting) -> None:
    """How far the prepared volumes are apart, inside the body."""
    sides: dict[str, Any] = {
        file.stem: np.load(file, mmap_mode="r") for file in sorted(setting.folder.glob("out-*.npy"))
    }
    ours = sides.pop("out-ours")
    inside = np.asarray(ours) > -500
    for name, theirs in sides.items():
        gap = np.abs(np.asarray(theirs)[inside] - ours[inside].astype(np.float32))
        note = " (TorchIO's grid has another phase)" if "torchio" in name.lower() else ""
        print(f"voxels of {name.removeprefix('out-')} and ours in the body: at most {gap.max():.2f} HU apart{note}")


if __name__ == "__main__":
    print(f"{PATCHES} patches per volume in TorchIO")
    main()
