"""Processes that run cells. One that dies takes its cell with it and nothing else; all die with their parent.

A worker writes its finished cell itself, before it says so: whatever is killed whenever, finished cells are kept.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from domainvl.benchmark.cells import Cell, Shelf
from domainvl.console import parser as parsing
from domainvl.data.loading import processors


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: its content, or the error in one line."""

    cell: Cell
    content: dict[str, Any] | None
    error: str = ""


@dataclass(frozen=True)
class Setting:
    """What every worker is told.

    Attributes:
        folder: Of the benchmark.
        jobs: How many workers there are.
        gpus: How many GPUs they share; each sees one.
        allow: Packages of the user that recipes may name.
    """

    folder: Path
    jobs: int
    gpus: int
    allow: tuple[str, ...] = ()


class Worker:
    """A process and the cell that it is busy with."""

    def __init__(self, number: int, setting: Setting) -> None:
        # Not forked, as torch may have threads here; `domainvl.commands.benchmark` has started the server meanwhile.
        context = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")
        self.number = number
        self.cell: Cell | None = None
        self.dead = False
        self.pipe, theirs = context.Pipe()
        # Nothing is ever sent; its other end closes when this process is gone, however it went.
        lifeline, self._alive = context.Pipe(duplex=False)
        # No daemon, because its data loader may want processes of its own.
        self.process: Any = context.Process(target=_work, args=(theirs, lifeline, number, setting))  # type: ignore[attr-defined]
        self.process.start()
        theirs.close()
        lifeline.close()

    def give(self, cell: Cell) -> None:
        """Let it run a cell."""
        self.cell = cell
        self.pipe.send(cell)

    def take(self) -> Outcome:
        """Wait for the end of its cell, good or bad."""
        cell = self.cell
        if cell is None:
            raise RuntimeError(f"worker {self.number} has no cell")
        self.cell = None
        try:
            content, error = self.pipe.recv()
        except (EOFError, OSError):
            self.dead = True
            self.process.join()
            code = self.process.exitcode
            how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with status {code}"
            return Outcome(cell, None, f"its process {how}{' (out of memory?)' if code == -signal.SIGKILL else ''}")
        return Outcome(cell, content, error)

    def stop(self) -> None:
        """End it, whatever it is doing; cells are written whole or not at all."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self._alive.close()


def run_cells(cells: Sequence[Cell], setting: Setting, report: Callable[[Outcome], None]) -> None:
    """Run cells, in order, on several processes; `report` hears of each as it ends."""
    waiting = list(cells)
    workers: dict[Connection, Worker] = {}
    try:
        for number in range(min(setting.jobs, len(waiting))):
            worker = Worker(number, setting)
            workers[worker.pipe] = worker
            worker.give(waiting.pop(0))
        while workers:
            for pipe in wait(list(workers)):
                worker = workers[pipe]  # type: ignore[index]
                outcome = worker.take()
                if worker.dead:
                    Shelf(setting.folder).fail(outcome.cell.key, outcome.error)
                report(outcome)
                if not waiting:
                    workers.pop(worker.pipe).stop()
                    continue
                if worker.dead:
                    workers.pop(worker.pipe).stop()
                    worker = Worker(worker.number, setting)
                    workers[worker.pipe] = worker
                worker.give(waiting.pop(0))
    finally:
        for worker in workers.values():
            worker.stop()


def _work(pipe: Connection, lifeline: Connection, number: int, setting: Setting) -> None:
    """The life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    threading.Thread(target=_die_with, args=(lifeline,), daemon=True).start()
    log = setting.folder / "log" / f"worker-{number}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        # What libraries print would run into the lines of progress.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    if setting.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = _visible(number % setting.gpus)

    import torch

    from domainvl.benchmark.bench import Bench
    from domainvl.console.quiet import quieten

    torch.set_num_threads(max(1, processors() // setting.jobs))
    quieten()
    parsing.offer_classes(setting.allow)
    bench, shelf = Bench(), Shelf(setting.folder)
    while True:
        try:
            cell: Cell = pipe.recv()
        except EOFError:
            return
        print(f"--- {time.strftime('%H:%M:%S')} {cell.key} {cell.title}", flush=True)
        try:
            content = bench.run(cell)
            shelf.keep(cell.key, content)
        # Whatever a cell dies of, the others go on; the whole traceback lies in the folder.
        except (Exception, SystemExit) as error:
            text = traceback.format_exc()
            print(text, flush=True)
            shelf.fail(cell.key, text)
            pipe.send((None, _in_a_line(error)))
            continue
        pipe.send((content, ""))


def _visible(device: int) -> str:
    """The name of the n-th of the GPUs that this process may use."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return str(device) if given is None else given.split(",")[device]


def _die_with(lifeline: Connection) -> None:
    """End this process when its parent ends, in the middle of a cell too."""
    try:
        lifeline.recv()
    except (EOFError, OSError):
        os._exit(1)


def _in_a_line(error: BaseException) -> str:
    text = " ".join(f"{error}".split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
