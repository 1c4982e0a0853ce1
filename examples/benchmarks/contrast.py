"""Contrastive losses in tiles against the plain form and against open_clip's: CPU seconds, peak memory, agreement.

    OMP_NUM_THREADS=1 python examples/benchmarks/contrast.py

Forward and backward of one loss over random features, fp32. The sides take turns within one process, so that whatever
else the machine does hits all of them; one round runs first and is not counted. Times are processor time. Memory is the
most that tensors held at once beyond features and scale, as the allocator saw it, gradients included, in a run of its
own. `gap` is the largest difference of a gradient to the first side, relative to the largest gradient. `2B` is the peak
of tiles at twice the batch, in peaks at this one.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from domainvl.objectives import Context, SigLIP
from domainvl.objectives.contrast import contrast

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
BIAS = torch.tensor(-10.0)


def theirs(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    return ClipLoss()(F.normalize(a, dim=-1), F.normalize(b, dim=-1), scale)


def their_sigmoid(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    return SigLipLoss()(F.normalize(a, dim=-1), F.normalize(b, dim=-1), scale, BIAS)


def our_sigmoid(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    return SigLIP()({"image.pooled": a, "text.pooled": b}, {}, Context(scale, epoch=0, bias=BIAS))["loss"]


def ours(symmetric: bool, tiled: bool) -> Loss:
    return lambda a, b, scale: contrast(a, b, scale, symmetric=symmetric, tiled=tiled).loss


LOSSES: Mapping[str, Mapping[str, Loss]] = {
    "symmetric": {"plain": ours(True, False), "open_clip": theirs, "tiled": ours(True, True)},
    "one way": {"plain": ours(False, False), "tiled": ours(False, True)},
    "sigmoid": {"open_clip": their_sigmoid, "tiled": our_sigmoid},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", nargs="+", type=int, default=[1024, 4096, 8192])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--scale", type=float, default=14.3)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; give at least 1")
    print(f"{processor()}, {platform.system()}, torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    for batch in options.batch:
        for title, sides in LOSSES.items():
            report(f"{title}, B = {batch}, D = {options.width}", sides, batch, options)


def report(title: str, sides: Mapping[str, Loss], batch: int, options: argparse.Namespace) -> None:
    """Measure the sides in turns and print a table."""
    leaves = inputs(batch, options.width, options.scale)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    gradients: dict[str, tuple[Tensor, ...]] = {}
    for turn in range(options.rounds + 1):
        for name, loss in sides.items():
            start = time.process_time()
            gradients[name] = torch.autograd.grad(loss(*leaves), leaves)
            if turn:
                seconds[name].append(time.process_time() - start)
    first = next(iter(sides))
    base = statistics.median(seconds[first])
    memory = peak(sides[first], batch, options)
    print(f"\n{title} (n = {options.rounds})\n{'':10}  seconds         (range)  ratio     MiB  share    2B      gap")
    for name, values in seconds.items():
        middle = statistics.median(values)
        found = peak(sides[name], batch, options)
        double = f"{peak(sides[name], 2 * batch, options) / found:4.2f}x" if name == "tiled" else "    -"
        gap = max(distance(*both) for both in zip(gradients[name], gradients[first], strict=True))
        print(
            f"{name:10} {middle:8.3f} {f'({min(values):.3f}-{max(values):.3f})':>15} {middle / base:5.2f}x "
            f"{found / 2**20:7.1f} {found / memory:6.3f} {double} {gap:8.1e}",
            flush=True,
        )


def inputs(batch: int, width: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    shared = torch.randn(batch, width, generator=draw)
    a, b = (shared + 1.5 * torch.randn(batch, width, generator=draw) for _ in range(2))
    return a.requires_grad_(), b.requires_grad_(), torch.tensor(scale, requires_grad=True)


def peak(loss: Loss, batch: int, options: argparse.Namespace) -> int:
    """Most bytes that one forward and backward held at once."""
    leaves = inputs(batch, options.width, options.scale)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        torch.autograd.grad(loss(*leaves), leaves)
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def processor() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
