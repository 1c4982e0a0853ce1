"""MMRL and MMRL++ here against the authors' code, on the same machine, in turns: CPU seconds and peak memory.

    git clone https://github.com/yunncheng/MMRL /tmp/MMRL
    python examples/benchmarks/fewshot.py --reference /tmp/MMRL

A random ViT-B/16, fp32, one thread, a batch of 4. Every side runs in a process of its own, and the sides take turns
step by step, so that whatever else the machine does hits all of them; a few at a time, for the sake of memory, and the
reference with each few. Times are processor time (user and system). Memory is the largest resident size while training
runs, weights included, set-up not. One epoch runs first and is not counted; cached sides fill their cache in it.
`loss gap` is the largest difference to the first side over all steps: training amplifies rounding, so it grows with
them, and `first gap`, of the first step, does not.

The reference's own `build_model` and `forward_backward` run unmodified; see `fewshot_sides.import_reference` for what
stands in for Dassl and the GPU. Without --reference ours are compared with their own plain computation.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from fewshot_sides import METHODS, Setting, ours, reference, serve

from domainvl.speed import PLAIN, Speed

SPEEDS = {
    "plain": PLAIN,
    "exact, MKL": Speed(cache=0, onednn=False),
    "cached, MKL": Speed(onednn=False),
    "exact": Speed(cache=0),
    "cached": Speed(),
    "bf16": Speed(cache=0, frozen="bf16"),
    "bf16 cached": Speed(frozen="bf16"),
}
TARGETS = {("MMRL", 5): (1.5, 2.6), ("MMRL", 100): (4.0, 6.4), ("MMRL++", 5): (1.35, 2.5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="a checkout of yunncheng/MMRL")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--classes", nargs="+", type=int, default=[5, 100], help="at most 100")
    parser.add_argument("--speeds", nargs="+", choices=SPEEDS, default=list(SPEEDS))
    parser.add_argument("--tiny", action="store_true", help="four small blocks, to see that everything runs")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2, help="steps per epoch")
    parser.add_argument("--together", type=int, default=3, help="sides beside the reference at once; each takes 2 GiB")
    parser.add_argument("--epochs", type=int, default=5, help="measured epochs")
    options = parser.parse_args()
    if options.reference is not None and not (options.reference / "trainers" / "mmrl.py").is_file():
        parser.error(f"--reference {options.reference} holds no trainers/mmrl.py; give a checkout of yunncheng/MMRL")
    print(
        f"{processor()}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}, one thread"
    )
    for method in options.methods:
        for classes in options.classes:
            with tempfile.TemporaryDirectory() as folder:
                setting = Setting(
                    method, classes, options.batch, options.steps, options.epochs + 1, Path(folder), options.tiny
                )
                title(setting)
                for start in range(0, len(options.speeds), options.together):
                    speeds = options.speeds[start : start + options.together]
                    report(measure(options.reference, speeds, setting))
            if options.reference is not None and not options.tiny and (method, classes) in TARGETS:
                print("aimed at: exact {}x, cached {}x".format(*TARGETS[method, classes]), flush=True)


def measure(checkout: Path | None, speeds: Sequence[str], setting: Setting) -> dict[str, dict[str, list[float]]]:
    """Let the sides take turns."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Any] = {}
    workers: list[Any] = []
    sides: dict[str, Any] = {} if checkout is None else {"reference": (reference, (checkout, setting))}
    for name in speeds:
        sides[name] = (ours, (SPEEDS[name], setting))
    for name, (side, arguments) in sides.items():
        # One after the other: the reference writes down where the others start.
        pipes[name], theirs = context.Pipe()
        workers.append(context.Process(target=serve, args=(side, arguments, theirs), daemon=True))
        workers[-1].start()
        theirs.close()
        receive(name, pipes[name])
    found: dict[str, dict[str, list[float]]] = {
        name: {"step": [], "epoch": [], "peak": [], "loss": []} for name in sides
    }
    for epoch in range(setting.epochs):
        for step in range(setting.steps):
            for name, pipe in pipes.items():
                pipe.send("go")
                answers = [receive(name, pipe)]
                if step == setting.steps - 1:
                    answers.append(receive(name, pipe))
                for answer in answers:
                    for key, value in answer.items():
                        if epoch > 0 or key in ("loss", "peak"):
                            found[name][key].append(value)
    for worker in workers:
        worker.join()
    return found


def receive(name: str, pipe: Any) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        raise SystemExit(f"{name} stopped; its error stands above") from None


def title(setting: Setting) -> None:
    """Headings of a table."""
    counts = f"n = {setting.steps * (setting.epochs - 1)} steps, {setting.epochs - 1} epochs"
    print(f"\n{setting.method}, {setting.classes} classes, batch {setting.batch} ({counts})")
    heads = "".join(f" {head:>8} {'(range)':>15}  ratio" for head in ("s/step", "s/epoch"))
    print(f"{'':12}{heads}    MiB share first gap loss gap", flush=True)


def report(found: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Median and range, ratios to the first side."""
    first = next(iter(found))
    base = {key: statistics.median(found[first][key]) for key in ("step", "epoch")}
    most = max(found[first]["peak"])
    for name, values in found.items():
        row = f"{name:12}"
        for key in ("step", "epoch"):
            middle = statistics.median(values[key])
            span = f"({min(values[key]):.2f}-{max(values[key]):.2f})"
            row += f" {middle:8.3f} {span:>15} {base[key] / middle:5.2f}x"
        peak = max(values["peak"])
        gaps = [abs(a - b) for a, b in zip(values["loss"], found[first]["loss"], strict=True)]
        print(f"{row} {peak:6.0f} {peak / most:5.2f} {gaps[0]:9.1e} {max(gaps):8.1e}", flush=True)


def processor() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
