"""Reading tiles of a whole slide: ours beside OpenSlide, on the same file, in one run; and the memory of embedding.

    python examples/benchmarks/slides.py
    python examples/benchmarks/slides.py --slide FILE          # a slide of your own, at 40x

Every measurement runs in a process of its own with one thread; the sides take turns, round by round, so that whatever
else the machine does hits all of them. Times are processor time (user and system) of the reading alone, without imports
and without opening the file, which is in the page cache. Medians of --rounds rounds, with their range.

`aligned` reads every 256-pixel tile of level 0 once, row by row, into a batch of uint8 that was allocated before.
`free` reads squares of 256 pixels that begin anywhere. `20x from 40x` makes 256 pixels of 512; the slide has no level
in between, as Aperio's do not. The rival reads RGBA from OpenSlide, which is what its Python package gives, and drops
alpha in the two ways there are; then it resizes as TRIDENT does (PIL, bicubic) and by the cheaper filters of PIL and,
where it is installed, OpenCV. The cheapest of them counts.

`memory` is the largest resident size of a process that embeds a slide by the built-in model, for slides of growing
area; imports included.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from fewshot import processor
from slides_sides import PARTS, TILE, embedded, measure

from domainvl.samples.slides.pyramid import save_pyramid
from domainvl.samples.slides.textures import texture

GOALS = {"aligned": 4.0, "20x from 40x": 5.0}
MPP = 0.25
_UNIT = round(96 / MPP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=8192, help="pixels along a side of the slide that is drawn")
    parser.add_argument("--slide", type=Path, help="a slide of your own, in place of a drawn one")
    parser.add_argument("--tiny", action="store_true", help="a small slide, to see that everything runs")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    side = 1024 if options.tiny else options.side
    missing = [name for name in ("cv2",) if importlib.util.find_spec(name) is None]
    if missing:
        print(f"not installed, so its side is left out: {', '.join(missing)}")
    print(
        f"{processor()}, {platform.system()}, Python {platform.python_version()}, one thread per process, load "
        f"{', '.join(f'{value:.1f}' for value in os.getloadavg())}"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = options.slide or drawn(Path(folder) / "slide.tif", side)
        print(f"slide: {path.name if options.slide else f'drawn, {side} x {side}'}, {path.stat().st_size / 1e6:.0f} MB")
        for part, sides in PARTS.items():
            names = [name for name, needs in sides.items() if needs not in missing]
            found: dict[str, list[float]] = {name: [] for name in names}
            for _ in range(options.rounds):
                for name in names:
                    found[name].append(alone("fork", measure, part, name, path))
            report(part, found)
        times = min(options.rounds, 3)
        print(f"\nmemory, embedding one slide (n = {times})")
        for factor in (1,) if options.tiny else (1, 2, 4):
            small = drawn(Path(folder) / f"{factor}.tif", side // 4 * factor)
            peaks = [alone("spawn", embedded, small, Path(folder) / f"out-{factor}-{n}") for n in range(times)]
            tiles = (side // 4 * factor // (2 * TILE)) ** 2
            print(f"{tiles:6d} tiles  {statistics.median(peaks):7.0f} MiB  ({min(peaks):.0f}-{max(peaks):.0f})")
    print(f"load {', '.join(f'{value:.1f}' for value in os.getloadavg())}")


def drawn(path: Path, side: int) -> Path:
    """A slide full of tissue at 40x: JPEG 4:2:0, tiles of 256, levels of 1, 4 and 16."""
    rng = np.random.default_rng(0)
    kinds = [texture(rng, kind, _UNIT) for kind in ("stroma", "tumor", "glands", "lymphocytes")]
    grain = rng.normal(0, 0.02, kinds[0].shape).astype(np.float32)
    squares = [(np.clip(kind + grain, 0, 1) * 255).astype(np.uint8) for kind in kinds]
    block = np.concatenate([np.concatenate(squares[:2], 1), np.concatenate(squares[2:], 1)], 0)
    times = -(-side // len(block))
    save_pyramid(path, np.tile(block, (times, times, 1))[:side, :side], MPP, levels=3)
    return path


def alone(start: str, function: Callable[..., float], *arguments: object) -> float:
    """One measurement in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context(start)) as pool:
        return pool.submit(function, *arguments).result()


def report(part: str, found: Mapping[str, Sequence[float]]) -> None:
    """Median and range per tile, and how many times ours is cheaper."""
    ours = statistics.median(found["ours"])
    rivals = {name: statistics.median(values) for name, values in found.items() if name != "ours"}
    best = min(rivals, key=lambda name: rivals[name])
    print(f"\n{part}, CPU ms per tile of {TILE} pixels (n = {len(found['ours'])})")
    for name, values in found.items():
        middle = statistics.median(values) * 1000
        span = f"({min(values) * 1000:.3f}-{max(values) * 1000:.3f})"
        note = ""
        if name == best:
            goal = f"; aimed at: {GOALS[part]:g}x" if part in GOALS else ""
            note = f"  the cheapest rival{goal}"
        print(f"{name:38} {middle:8.3f} {span:>17} {middle / 1000 / ours:7.2f}x{note}", flush=True)


if __name__ == "__main__":
    main()
