"""`predict` over many small images: is each there once, is memory flat, does a kill change anything, what takes time?

    python examples/benchmarks/predict_many.py                 # 100,000 images on two cores, about ten minutes
    python examples/benchmarks/predict_many.py --costs         # only what an image costs, step by step, on one thread

An untouched pass runs first: the resident and the proportional size of all its processes is read every second. `growth`
is the median of the last twentieth of these readings over the median around three quarters of the way. Then the same
command runs again and is killed (SIGKILL) at random times; the last start is left alone. Its table has to equal the
first one byte by byte, and to name every image once.

The model is the built-in tiny one with a random MMRL adapter, images are drawn JPEGs. Costs are processor time, medians
of --rounds rounds of 512 images.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from fewshot import processor
from PIL import Image
from predict_costs import costs

from domainvl import hub
from domainvl.adapters import MMRL
from domainvl.backbones import HuggingFace

CLASSES = ["effusion", "edema", "pneumonia"]
PROMPTS = {"templates": ["a chest x-ray showing {}."], "negatives": ["a chest x-ray without {}."], "names": {}}
_FOLDER = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=64, help="pixels along a side")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="processes that read (default: what predict takes)")
    parser.add_argument("--out", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--costs", action="store_true", help="only what each step costs")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(
        f"{processor()}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}", flush=True
    )
    with tempfile.TemporaryDirectory(dir=options.out) as folder:
        work = Path(folder)
        adapter(work / "adapter")
        drawn(work / "images", 512 if options.costs else options.images, options.size)
        if not options.costs:
            passes(work, options)
        # The first folder holds a thousand; so many are held in memory here at every step.
        costs(work / "adapter", work / "images" / "0000", 512, options.rounds)


def passes(work: Path, options: argparse.Namespace) -> None:
    cores = sorted(os.sched_getaffinity(0))[: options.cores]
    command = [sys.executable, "-m", "domainvl", "predict", str(work / "adapter"), str(work / "images")]
    command += [] if options.workers is None else ["--workers", str(options.workers)]
    whole, cut = work / "whole.csv", work / "cut.csv"

    process, began = started(command, whole, cores), time.monotonic()
    resident, proportional = [], []
    for sizes in sampled(process):
        resident.append(sizes[0])
        proportional.append(sizes[1])
    seconds = time.monotonic() - began
    said = finished(process)
    print(f"untouched: {seconds:.0f} s; {said}")
    for name, sizes in (("resident", resident), ("proportional", proportional)):
        print(f"{name} size, all processes: {growth(sizes)}")

    names = [row[0] for row in csv.reader(whole.open())][1:]
    wanted = sorted(path.relative_to(work / "images").as_posix() for path in (work / "images").rglob("*.jpg"))
    print(f"rows {len(names):,}, images {len(wanted):,}, every image once: {sorted(names) == wanted}", flush=True)
    if options.kills:
        killed(command, cut, cores, options.kills, seconds, random.Random(options.seed))
        print(f"the same bytes as the untouched pass: {whole.read_bytes() == cut.read_bytes()}", flush=True)


def killed(command: list[str], output: Path, cores: list[int], kills: int, seconds: float, draw: random.Random) -> None:
    """The same pass, killed up to so many times, within the time that an untouched one takes."""
    for _ in range(kills):
        process = started(command, output, cores)
        try:
            process.wait(draw.uniform(0.15, 0.5) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            lines = output.with_suffix(".partial") / "rows.jsonl"
            count = lines.read_bytes().count(b"\n") if lines.exists() else 0
            print(f"killed; {count:,} lines lie there", flush=True)
        else:
            print(f"done before it was killed: {finished(process)}")
    print(finished(started(command, output, cores)))


def started(command: list[str], output: Path, cores: list[int]) -> subprocess.Popen[str]:
    """A pass in processes of its own, on some cores."""
    return subprocess.Popen(
        [*command, "--output", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(len(cores)), "HF_HUB_OFFLINE": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )


def finished(process: subprocess.Popen[str]) -> str:
    """The last line of a pass that went well."""
    output, error = process.communicate()
    if process.returncode:
        raise RuntimeError(f"predict ended with {process.returncode}:\n{error}")
    return output.splitlines()[-1]


def sampled(process: subprocess.Popen[str]) -> Iterator[tuple[float, float]]:
    """Resident and proportional MiB of a process and its children, every second until it ends."""
    while True:
        try:
            process.wait(1.0)
            return
        except subprocess.TimeoutExpired:
            rows = [sizes(number) for number in tree(process.pid)]
            yield sum(row[0] for row in rows), sum(row[1] for row in rows)


def tree(number: int) -> Iterator[int]:
    yield number
    try:
        children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    except FileNotFoundError:
        return
    for child in children:
        yield from tree(int(child))


def sizes(number: int) -> tuple[float, float]:
    try:
        lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0, 0.0
    found = {line.split(":")[0]: float(line.split()[1]) / 1024 for line in lines[1:] if line.endswith("kB")}
    return found["Rss"], found["Pss"]


def growth(sizes: list[float]) -> str:
    """How much memory grew over the last quarter of the readings."""
    count = len(sizes)
    if count < 40:
        return f"at most {max(sizes, default=0):,.0f} MiB; too few readings for a growth"
    width = max(3, count // 20)
    middle = statistics.median(sizes[3 * count // 4 - width // 2 :][:width])
    last = statistics.median(sizes[-width:])
    quarters = ", ".join(f"{statistics.median(sizes[q * count // 4 : (q + 1) * count // 4]):,.0f}" for q in range(4))
    return (
        f"at most {max(sizes):,.0f} MiB, quarters {quarters} MiB, growth over the last quarter {last / middle - 1:+.2%}"
    )


def adapter(folder: Path) -> None:
    """A random MMRL adapter of the built-in model."""
    torch.manual_seed(0)
    backbone, method = HuggingFace("builtin:tiny"), MMRL(tokens=3, width=16)
    spec = backbone.spec()
    method.attach(backbone)
    method.prime(torch.eye(2 * len(CLASSES), backbone.text.out_dim))
    hub.save_adapter(
        folder, method, backbone=spec, classes=CLASSES, multilabel=True, prompts=PROMPTS, recipe="data: {}"
    )


def drawn(folder: Path, count: int, size: int) -> None:
    """So many JPEGs, each of its own, a thousand in a folder."""
    began = time.monotonic()
    with ProcessPoolExecutor(2) as pool:
        starts = range(0, count, _FOLDER)
        made: list[Callable[[], None]] = list(
            pool.map(
                some, [folder] * len(starts), starts, [min(count, s + _FOLDER) for s in starts], [size] * len(starts)
            )
        )
    print(
        f"drew {count:,} JPEGs of {size} x {size} in {len(made)} folders, {time.monotonic() - began:.0f} s", flush=True
    )


def some(folder: Path, start: int, stop: int, size: int) -> None:
    place = folder / f"{start // _FOLDER:04d}"
    place.mkdir(parents=True)
    for number in range(start, stop):
        noise = np.random.default_rng(number).integers(256, size=(8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC).save(place / f"{number:06d}.jpg")


if __name__ == "__main__":
    main()
