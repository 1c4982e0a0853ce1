"""A progress bar with the time that is left, for what may take long."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_SILENT_SECONDS = 2.0


def shown(steps: Iterable[T], total: int, title: str) -> Iterator[T]:
    """The same steps, with a progress bar once they have taken a while."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task(title, total=total)
    began = time.monotonic()
    try:
        for step in steps:
            progress.advance(task)
            if not progress.live.is_started and time.monotonic() - began > _SILENT_SECONDS:
                progress.start()
            yield step
    finally:
        if progress.live.is_started:
            progress.stop()
