"""The heavy half of `benchmark`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from domainvl.benchmark import plot, table
from domainvl.benchmark.cells import ZERO_SHOT, Cell, Shelf
from domainvl.benchmark.grid import Grid
from domainvl.benchmark.plan import plan, weight
from domainvl.benchmark.pool import Outcome, Setting, run_cells
from domainvl.console import parser as parsing
from domainvl.console.arguments import Arguments
from domainvl.console.quiet import quieten
from domainvl.console.session import clear_errors
from domainvl.console.signals import Interrupted, interruptible
from domainvl.data.loading import processors
from domainvl.errors import CommandError
from domainvl.runs import recipe_name


def benchmark(arguments: Arguments, grid: Grid, jobs: int | None) -> int:
    """Run what is not finished yet of a grid, then write and print the results.

    Args:
        arguments: The command line.
        grid: What is run.
        jobs: Number of processes; None for one per GPU, or one per core where there is none.
    """
    quieten()
    allow = tuple(arguments.options.get("--allow-import", ()))
    parsing.offer_classes(allow)
    cells = plan(grid, arguments.overrides)
    wanted = arguments.option("--run-dir")
    folder = Path(wanted) if wanted else Path("runs") / recipe_name(arguments.recipes[0]) / "benchmark"
    gpus = _gpus(cells)
    jobs = jobs or gpus or processors()
    with clear_errors(), _alone(folder):
        return _benchmark(cells, Setting(folder, min(jobs, len(cells)), gpus, allow))


def _benchmark(cells: Sequence[Cell], setting: Setting) -> int:
    shelf = Shelf(setting.folder)
    shelf.sweep()
    found = {cell.key: _named(cell, shelf.read(cell.key)) for cell in cells}
    missing = [cell for cell in cells if found[cell.key] is None]
    done = len(cells) - len(missing)
    already = f", {done} of them finished already" if done else ""
    print(f"{len(cells)} cells{already}; {setting.jobs} at a time; {setting.folder}", flush=True)
    progress = _Progress(len(cells), missing)
    failed: list[Outcome] = []

    def report(outcome: Outcome) -> None:
        found[outcome.cell.key] = _named(outcome.cell, outcome.content)
        if outcome.content is None:
            failed.append(outcome)
        print(progress.line(outcome), flush=True)

    try:
        with interruptible():
            run_cells(missing, setting, report)
    except Interrupted as stop:
        kept = sum(content is not None for content in found.values())
        print(f"\nstopped by {stop}; {kept} of {len(cells)} cells are kept", file=sys.stderr)
        print("resume: the same command again", file=sys.stderr, flush=True)
        return stop.status
    finished = _ordered([content for content in found.values() if content is not None])
    if finished:
        table.check_same_data(finished)
        rows = table.rows(finished)
        table.write(setting.folder / "results.csv", rows)
        pictures = plot.draw(setting.folder, table.averaged(rows))
        table.show(rows)
        for place in (setting.folder / "results.csv", *pictures):
            print(place)
    for outcome in failed:
        print(f"failed: {outcome.cell.title}: {outcome.error}", file=sys.stderr)
        print(f"see: {shelf.failure(outcome.cell.key)}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(cells)} cells failed; the same command tries them again", file=sys.stderr)
    return 1 if failed else 0


def _named(cell: Cell, content: dict[str, Any] | None) -> dict[str, Any] | None:
    """A finished cell under the names that this command uses."""
    return None if content is None else {**content, "cell": cell.key, "dataset": cell.dataset, "adapter": cell.adapter}


def _ordered(finished: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By data set and adapter in the order of the grid, then shots, then seed; cells run the other way round."""
    names = [list(dict.fromkeys(content[key] for content in finished)) for key in ("dataset", "adapter")]

    def place(content: dict[str, Any]) -> tuple[float, ...]:
        shots = float("inf") if content["shots"] is None else content["shots"]
        first = names[0].index(content["dataset"]), names[1].index(content["adapter"])
        return (*first, shots, content["seed"] or 0)

    return sorted(finished, key=place)


class _Progress:
    """One line per cell, with the time that is left by the weights of the cells."""

    def __init__(self, total: int, missing: Sequence[Cell]) -> None:
        self.total = total
        self.done = total - len(missing)
        self.left = sum(weight(cell) for cell in missing)
        self.spent = 0.0
        self.began = time.monotonic()

    def line(self, outcome: Outcome) -> str:
        cell = outcome.cell
        self.done += 1
        self.left -= weight(cell)
        self.spent += weight(cell) if cell.adapter != ZERO_SHOT else 0.0
        left = _clock((time.monotonic() - self.began) * self.left / self.spent) if self.spent else "?"
        place = f"[{self.done:{len(str(self.total))}d}/{self.total}]"
        if outcome.content is None:
            return f"{place} {cell.title}  FAILED: {outcome.error[:120]}  eta {left}"
        numbers = "  ".join(_numbers(cell, outcome.content))
        return f"{place} {cell.title}  {numbers}  {outcome.content['seconds']:.1f} s  eta {left}"


def _numbers(cell: Cell, content: dict[str, Any]) -> Iterator[str]:
    metric = table.headline(content["multilabel"])
    model = "zero_shot" if cell.adapter == ZERO_SHOT else "adapted"
    for name, part in content["parts"].items():
        value = part[model][metric]["value"] if "zero_shot" in part else None
        shown = "-" if value is None else f"{value:.3f}"
        yield f"{metric} {shown}" if name == "all" else f"{name} {shown}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _gpus(cells: Sequence[Cell]) -> int:
    """GPUs that the recipes may use."""
    import torch

    wanted = {cell.config["trainer"]["accelerator"] for cell in cells}
    return torch.cuda.device_count() if wanted & {"auto", "gpu", "cuda"} else 0


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second benchmark out of the folder: it would run the same cells. The lock ends with its process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", blocking=False)
        lock.acquire()
    except Timeout:
        raise CommandError(
            f"another benchmark is running in {folder}", todo="wait for it, or give another --run-dir", status=1
        ) from None
    except OSError as error:
        raise CommandError(
            f"the run folder {folder} cannot be written: {error.strerror}",
            todo="give --run-dir DIR with a folder that you may write",
            status=1,
        ) from error
    with lock:
        lock.release()  # `with` has acquired it once more
        yield
