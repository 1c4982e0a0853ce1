"""Mapping a scene that does not fit into memory: peak memory, a kill in the middle, and whether the bytes are the same.

    python examples/benchmarks/satellite_map.py

Writes a scene of --side pixels out of one of the sample set's, repeated (uint16, 4 bands, deflate in blocks of 512),
and maps it with the built-in model in two ways: at once, and killed (SIGKILL, with its reader) after a --kill share of
the rows and called again. Memory is the sum over the process and its reader of the proportional set size, asked twice a
second; idle is the peak of the same command on a scene of one tile.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fewshot import processor

ROOT = Path(__file__).parents[2]
FILES = ("classes.tif", "scores.tif", "regions.geojson", "quicklook.png", "map.json")


def write_scene(path: Path, source: Path, side: int) -> None:
    import rasterio
    from rasterio.windows import Window

    with rasterio.open(source) as dataset:
        pattern, names, profile = dataset.read(), dataset.descriptions, dataset.profile
    profile.update(width=side, height=side, blockxsize=512, blockysize=512, zlevel=1, BIGTIFF="IF_SAFER")
    across = np.arange(side) % pattern.shape[2]
    with rasterio.open(path, "w", **profile) as dataset:
        for top in range(0, side, 512):
            rows = np.arange(top, min(side, top + 512))
            strip = pattern[:, rows % pattern.shape[1]][:, :, across]
            dataset.write(strip, window=Window(0, top, side, len(rows)))
        for number, name in enumerate(names, 1):
            dataset.set_band_description(number, name)


def family(process: int) -> Iterator[int]:
    """A process and all that it started."""
    yield process
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from family(int(child))


def memory(process: int) -> float:
    """MiB of a process and its children, shared pages counted once."""
    total = 0
    try:
        for one in family(process):
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    except (FileNotFoundError, ProcessLookupError):
        # It has just ended.
        return 0.0
    return total / 1024


def scored(out: Path) -> float:
    """Share of the rows of tiles that a map has."""
    done = out / "scores" / "done.bin"
    return float(np.fromfile(done, np.uint8).mean()) if done.exists() else 0.0


def run(scene: Path, out: Path, tiling: Sequence[str], kill: float | None = None) -> tuple[float, float, float]:
    """Peak memory in MiB, seconds, CPU seconds."""
    command = [sys.executable, "-m", "domainvl", "map", str(ROOT / "recipes" / "satellite.yaml")]
    command += ["--scene", str(scene), "--out", str(out), *tiling]
    before, began = os.times(), time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, memory(process.pid))
            if kill is not None and scored(out) > kill:
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.5)
        if process.returncode not in (0, -signal.SIGKILL):
            log.seek(0)
            raise SystemExit(log.read().decode())
    after = os.times()
    work = after.children_user + after.children_system - before.children_user - before.children_system
    return peak, time.monotonic() - began, work


def check(path: Path, scene: Path) -> str:
    """That rasterio reads a cloud-optimised GeoTIFF that lies where the scene lies."""
    import rasterio

    with rasterio.open(scene) as source, rasterio.open(path) as dataset:
        facts: dict[str, Any] = {
            "layout": dataset.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG",
            "blocks": set(dataset.block_shapes) == {(256, 256)} or max(dataset.shape) <= 256,
            "overviews": bool(dataset.overviews(1)) or max(dataset.shape) <= 512,
            "crs": dataset.crs == source.crs,
            "corner": np.allclose(tuple(dataset.transform)[2:6:3], tuple(source.transform)[2:6:3]),
            "reads": all(len(dataset.read(window=window)) for _, window in dataset.block_windows(1)),
        }
        bad = [name for name, good in facts.items() if not good]
        shape = f"{dataset.count} x {dataset.height} x {dataset.width}, overviews {dataset.overviews(1)}"
    return f"{path.name}: {shape}; {'valid' if not bad else 'BAD: ' + ', '.join(bad)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--overlap", type=int, default=0, help="pixels that tiles share")
    parser.add_argument("--reduce", type=int, default=1, help="tiles are 96 x 96 after they were reduced so much")
    parser.add_argument("--kill", type=float, default=0.3, help="share of rows after which the second run is killed")
    options = parser.parse_args()
    print(f"{processor()}, {os.environ.get('OMP_NUM_THREADS', 'all')} threads, load {os.getloadavg()[0]:.1f}")
    settings = {"size": 96 * options.reduce, "overlap": options.overlap, "reduce": options.reduce}
    tiling = [f"--data.tiling.{name}={value}" for name, value in settings.items()]
    from domainvl.samples import cached

    source = min((cached("satellite") / "scenes").iterdir())
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, side in (("large", options.side), ("one", settings["size"])):
            write_scene(folder / f"{name}.tif", source, side)
        size = (folder / "large.tif").stat().st_size / 2**20
        print(f"scene: {options.side} x {options.side}, 4 bands, {size:,.0f} MiB on disk", flush=True)
        idle, _, _ = run(folder / "one.tif", folder / "idle", tiling)
        peak, seconds, work = run(folder / "large.tif", folder / "whole", tiling)
        print(
            f"peak memory {peak:,.0f} MiB, idle {idle:,.0f} MiB: {peak - idle:+,.0f} MiB; "
            f"{seconds:.0f} s, CPU {work:.0f} s"
        )
        for name in FILES[:2]:
            print(check(folder / "whole" / name, folder / "large.tif"), flush=True)
        run(folder / "large.tif", folder / "killed", tiling, kill=options.kill)
        left = [name for name in FILES if (folder / "killed" / name).exists()]
        share = scored(folder / "killed")
        print(f"killed with {share:.0%} of the rows scored and {len(left)} files written", flush=True)
        run(folder / "large.tif", folder / "killed", tiling)
        for name in FILES:
            digests = {hashlib.sha256((folder / one / name).read_bytes()).hexdigest() for one in ("whole", "killed")}
            print(f"{name}: {'same bytes' if len(digests) == 1 else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
