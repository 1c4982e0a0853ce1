"""A progress bar with the time that is left, for what may take long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_SILENT_SECONDS = 2.0


def shown(
    steps: Iterable[T], total: int | None, title: str, unit: str = "", size: Callable[[T], int] = lambda step: 1
) -> Iterator[T]:
    """The same steps, with a progress bar once they have taken a while.

    Args:
        steps: What is done.
        total: How much there is of it; None where that is not known.
        title: What stands in front of the bar.
        unit: What is counted; its number per second is shown where it is given.
        size: How much of `total` a step is.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.0f} {unit}/s")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *([Rate()] if unit else []),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task(title, total=total)
    began = time.monotonic()
    try:
        for step in steps:
            progress.advance(task, size(step))
            if not progress.live.is_started and time.monotonic() - began > _SILENT_SECONDS:
                progress.start()
            yield step
    finally:
        if progress.live.is_started:
            progress.stop()
