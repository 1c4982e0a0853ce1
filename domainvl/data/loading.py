"""How a data set is read: batch sizes, workers, memory, and how much of it may be unusable."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Loading:
    """How batches are made.

    Attributes:
        batch_size: Images per training batch and process.
        eval_batch_size: Images per batch elsewhere.
        drop_last: Leave the last, smaller training batch out, if there is at least one full one (as Dassl does).
        workers: Processes or threads that read images; None for one per core, four at most.
        memory: GiB that one split may take in memory. What fits is read once, what does not is read every epoch.
        reject_share: Largest share of rows that may be unusable before the run stops.
    """

    batch_size: int = 32
    eval_batch_size: int = 128
    drop_last: bool = True
    workers: int | None = None
    memory: float = 2.0
    reject_share: float = 0.01

    def __post_init__(self) -> None:
        for name, value in {"batch_size": self.batch_size, "eval_batch_size": self.eval_batch_size}.items():
            if value < 1:
                raise ValueError(f"Loading: {name} is {value}; it must be at least 1")
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"Loading: workers is {self.workers}; give 0 (read in the main process), more, or null")
        if self.memory < 0:
            raise ValueError(f"Loading: memory is {self.memory}; give GiB, 0 to read every epoch from the files")
        if not 0 <= self.reject_share <= 1:
            raise ValueError(
                f"Loading: reject_share is {self.reject_share}; give a number from 0 to 1, 0.01 is one per cent"
            )

    @property
    def readers(self) -> int:
        """Number of processes or threads that `workers` stands for on this machine."""
        return min(4, processors()) if self.workers is None else self.workers

    def fits(self, size: int) -> bool:
        """Whether so many bytes may be kept in memory."""
        return size <= self.memory * 2**30


def processors() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
