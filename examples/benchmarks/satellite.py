"""Tiles of one large GeoTIFF as training batches: ours beside torchgeo's samplers, on the same scene, in one run.

    pip install torchgeo
    python examples/benchmarks/satellite.py

The scene: 8192 x 8192 pixels, 4 bands of uint16, deflate with predictor, pixels interleaved in blocks of 512, with
structure and noise. A side gives batches of 32 tiles of 256 x 256 pixels, red, green and blue, stretched to 0..255 and
normalised, float32. Every side has a process of its own with one thread and no workers; the sides take turns. Times are
processor time of the loop alone, after one batch, which opens files. Medians of --rounds rounds.

GDAL's cache is 64 MiB, an eighth of the scene, as if the scene were far larger than memory; `scene in cache` gives the
rival 1 GiB, which holds all of it, and 256 tiles are timed after 512 others have filled it. torchgeo stretches and
normalises whole batches, which is its cheaper way. `same tensors` compares what both give for the same windows: ours
are rounded to 0..255 in the loader, so half a step of that is the most that they may be apart.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fewshot import processor

SIZE, BATCH, WHITE = 256, 32, 3000.0
BANDS = ("B02", "B03", "B04", "B08")
SMALL = 64 * 2**20
TARGETS = {"torchgeo RandomGeoSampler": "at least 6x", "torchgeo GridGeoSampler": "above 1x"}


def write_scene(path: Path, side: int) -> None:
    """A scene with clouds of all sizes and noise; it compresses about as real ones do."""
    import rasterio
    from rasterio.transform import from_origin
    from rasterio.windows import Window

    rng = np.random.default_rng(0)
    rows, columns = np.meshgrid(np.arange(512) / 512, np.arange(side) / side, indexing="ij")
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=side,
        height=side,
        count=4,
        dtype="uint16",
        crs="EPSG:32632",
        transform=from_origin(500_000, 5_300_000, 10, 10),
        tiled=True,
        blockxsize=512,
        blockysize=512,
        interleave="pixel",
        compress="deflate",
        predictor=2,
        zlevel=1,
    ) as dataset:
        for top in range(0, side, 512):
            waves = sum(np.sin((columns * a + (rows + top / 512) * b) * 40) for a, b in rng.uniform(-1, 1, (6, 2)))
            land = 1200 + 150 * waves[None] * rng.uniform(0.5, 1.5, (4, 1, 1))
            values = land + rng.normal(0, 60, (4, 512, side))
            dataset.write(values.clip(1, 10_000).astype(np.uint16), window=Window(0, top, side, 512))
        for number, name in enumerate(BANDS, 1):
            dataset.set_band_description(number, name)


def our_loader(scene: Path, training: bool, tiles: int) -> Iterator[Any]:
    """Batches as the tower takes them."""
    from data_modules.scenes.decoder import Look, SceneDecoder, block_order, blocks_around
    from data_modules.scenes.order import BlockSampler
    from data_modules.scenes.plan import Tiling, grid_plan, read_headers
    from data_modules.scenes.sensors import Sensor
    from data_modules.scenes.stretch import Ranges
    from domainvl.data.images import ImageSet
    from domainvl.data.labels import LabelPolicy
    from domainvl.data.loader import image_loader
    from domainvl.data.loading import Loading
    from domainvl.data.manifest import Manifest, Record
    from domainvl.data.preset import Preset
    from domainvl.data.rejects import Rejects
    from domainvl.data.sampler import EvalSampler

    tiling = Tiling(size=SIZE, jitter=SIZE // 4 if training else 0)
    headers, _ = read_headers(scene.parent, [scene.name])
    plan = grid_plan(headers, tiling)
    records = [Record(str(row), scene.name, str(row), part=plan.box(row)) for row in range(len(plan))]
    look = Look(Sensor.named("sentinel2-10m"), ("B04", "B03", "B02"), Ranges((0.0,) * 3, (WHITE,) * 3), 0, 0.5)
    decoder = SceneDecoder(Preset("tiles", SIZE), look, 1, blocks_around(records, tiling))
    manifest = Manifest("scene", scene.parent, tuple(records))
    images = ImageSet(manifest, range(len(records)), decoder, LabelPolicy(), Rejects(), labelled=False)
    blocks = block_order(records, tiling)
    sampler = BlockSampler(images, blocks, 0, batch_size=BATCH) if training else EvalSampler(images)
    loading = Loading(batch_size=BATCH, eval_batch_size=BATCH, workers=0)
    while tiles > 0:
        for batch in image_loader(images, sampler, loading):
            yield decoder.finish(batch["image"])
            tiles -= len(batch["image"])
        sampler.set_epoch(sampler.epoch + 1)


def their_dataset(scene: Path) -> Any:
    from torchgeo.datasets import RasterDataset

    class Scene(RasterDataset):
        filename_glob = scene.name
        is_image = True
        separate_files = False
        all_bands = BANDS
        rgb_bands = ("B04", "B03", "B02")

    return Scene(str(scene.parent), bands=["B04", "B03", "B02"])


def normalised(raw: Any) -> Any:
    """Raw values of a batch to what the tower takes, as ours, without the rounding."""
    import torch

    from domainvl.data.preset import Preset

    preset = Preset("tiles", SIZE)
    mean, std = torch.tensor(preset.mean).view(-1, 1, 1), torch.tensor(preset.std).view(-1, 1, 1)
    return ((raw / WHITE).clamp(0, 1) - mean) / std


def their_loader(scene: Path, training: bool, tiles: int) -> Iterator[Any]:
    from torch.utils.data import DataLoader
    from torchgeo.datasets import stack_samples
    from torchgeo.samplers import GridGeoSampler, RandomGeoSampler

    dataset = their_dataset(scene)
    if training:
        sampler: Any = RandomGeoSampler(dataset, size=SIZE, length=tiles)
    else:
        sampler = GridGeoSampler(dataset, size=SIZE, stride=SIZE)
    while tiles > 0:
        for batch in DataLoader(dataset, batch_size=BATCH, sampler=sampler, collate_fn=stack_samples):
            yield normalised(batch["image"])
            tiles -= len(batch["image"])


Side = tuple[Callable[[Path, bool, int], Iterator[Any]], bool, int, int]
SIDES: dict[str, Side] = {
    # Loader, training or evaluation, bytes of GDAL's cache, tiles that come before those that are timed.
    "ours, training order": (our_loader, True, SMALL, BATCH),
    "torchgeo RandomGeoSampler": (their_loader, True, SMALL, BATCH),
    "torchgeo RandomGeoSampler, scene in cache": (their_loader, True, 2**30, 512),
    "ours, evaluation order": (our_loader, False, SMALL, BATCH),
    "torchgeo GridGeoSampler": (their_loader, False, SMALL, BATCH),
    "torchgeo GridGeoSampler, scene in cache": (their_loader, False, 2**30, BATCH),
}


def serve(name: str, scene: Path, tiles: int, pipe: Any) -> None:
    """Answer every call with the CPU seconds per 1000 tiles of this process; None ends it."""
    import rasterio
    import torch

    torch.set_num_threads(1)
    from data_modules.scenes.blocks import blocks

    loader, training, cache, before = SIDES[name]
    while pipe.recv() is not None:
        # The rounds take the same tiles; none may be there from the last one.
        blocks.clear()
        with rasterio.Env(GDAL_CACHEMAX=cache, GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
            seen, batches = 0, loader(scene, training, tiles + before)
            while seen < before:
                seen += len(next(batches))
            timed, began = 0, time.process_time()
            while timed < tiles:
                timed += len(next(batches))
            pipe.send((time.process_time() - began) / timed * 1000)


def same_tensors(scene: Path, pipe: Any) -> None:
    """How far the sides are apart on windows anywhere, in steps of 1/255 before normalisation."""
    import torch

    from data_modules.scenes.files import read_window
    from data_modules.scenes.stretch import Ranges
    from domainvl.data.preset import Preset

    dataset = their_dataset(scene)
    x, y, t = dataset.bounds
    rng = np.random.default_rng(1)
    raw, apart = 0.0, 0.0
    preset = Preset("tiles", SIZE)
    step = torch.tensor(preset.std).view(-1, 1, 1) * 255
    with rasterio_size(scene) as side:
        for left, top in rng.integers(0, side - SIZE, (12, 2)).tolist():
            query = (
                slice(x.start + 10 * left, x.start + 10 * (left + SIZE)),
                slice(y.stop - 10 * (top + SIZE), y.stop - 10 * top),
                slice(t.start, t.stop),
            )
            theirs = dataset[query]["image"]
            values, _ = read_window(scene, [3, 2, 1], (left, top, SIZE, SIZE), (SIZE, SIZE), None)
            raw = max(raw, float((theirs - torch.from_numpy(values.astype(np.float32))).abs().max()))
            pixels = torch.from_numpy(Ranges((0.0,) * 3, (WHITE,) * 3).eight_bit(values))
            gap = (preset.normalise(pixels) - normalised(theirs)) * step
            apart = max(apart, float(gap.abs().max()))
    pipe.send((raw, apart))


def rasterio_size(scene: Path) -> Any:
    from contextlib import nullcontext

    from data_modules.scenes.files import header

    return nullcontext(header(scene).width)


def begin(target: Callable[..., None], *arguments: Any) -> Any:
    """Start a process; our end of the pipe to it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=target, args=(*arguments, theirs), daemon=True).start()
    theirs.close()
    return ours


def answer(pipe: Any, name: str) -> Any:
    """What a process says."""
    try:
        return pipe.recv()
    except EOFError:
        raise SystemExit(f"{name} stopped; its error stands above") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--tiles", type=int, default=768, help="tiles per measurement, a multiple of 256, which is what ours mixes"
    )
    parser.add_argument("--side", type=int, default=8192, help="side of the scene, a multiple of 512")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    try:
        import torchgeo
    except ModuleNotFoundError:
        names = [name for name in SIDES if name.startswith("ours")]
        print("not installed, so its sides are left out: torchgeo")
    else:
        names = list(SIDES)
        print(f"torchgeo {torchgeo.__version__}")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{processor()}, {platform.system()}, Python {platform.python_version()}, one thread, load {load}")
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder) / "scene.tif"
        write_scene(scene, options.side)
        found: dict[str, list[float]] = {name: [] for name in names}
        pipes = {name: begin(serve, name, scene, options.tiles) for name in names}
        for _ in range(options.rounds):
            for name, pipe in pipes.items():
                pipe.send("go")
                found[name].append(answer(pipe, name))
        for pipe in pipes.values():
            pipe.send(None)
        print(f"\nCPU seconds per 1000 tiles (n = {options.rounds})\n{'':42} {'median':>7} {'(range)':>15} to ours")
        for name, values in found.items():
            base = "ours, training order" if SIDES[name][1] else "ours, evaluation order"
            ratio = statistics.median(values) / statistics.median(found[base])
            aim = f"  aimed at: {TARGETS[name]}" if name in TARGETS else ""
            span = f"({min(values):.2f}-{max(values):.2f})"
            print(f"{name:42} {statistics.median(values):7.2f} {span:>15} {ratio:6.2f}x{aim}")
        if len(names) > len([name for name in names if name.startswith("ours")]):
            raw, apart = answer(begin(same_tensors, scene), "torchgeo")
            print(f"\nsame tensors: raw values at most {raw:g} apart; normalised at most {apart:.3f} steps of 1/255")
    print(f"load {', '.join(f'{value:.1f}' for value in os.getloadavg())}")


if __name__ == "__main__":
    main()
