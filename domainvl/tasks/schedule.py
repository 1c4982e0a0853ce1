"""How the learning rate moves."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

from lightning.pytorch.cli import LRSchedulerCallable
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

Interval = Literal["step", "epoch"]


class Schedule(ABC):
    """Makes a scheduler once the length of the training is known."""

    interval: Interval

    @abstractmethod
    def build(self, optimizer: Optimizer, steps: int, epochs: int) -> LRScheduler:
        """A scheduler for a run of `steps` optimiser steps in `epochs` epochs."""


class WarmupCosine(Schedule):
    """Constant and small for a while, then half a cosine down to `final`.

    With `interval="epoch"` and `warmup=1` this is Dassl's schedule to the digit: the cosine spans all epochs, those
    of the warm-up included, so the last one does not reach zero.

    Args:
        warmup: Length of the warm-up in units of `interval`.
        warmup_lr: Learning rate meanwhile.
        interval: Step after every epoch or after every optimiser step.
        final: Learning rate at the far end of the cosine, as a share of the initial one.
    """

    def __init__(
        self, warmup: int = 1, warmup_lr: float = 1e-5, interval: Interval = "epoch", final: float = 0.0
    ) -> None:
        if warmup < 0:
            raise ValueError(f"WarmupCosine: warmup must not be negative, got {warmup}")
        self.warmup = warmup
        self.warmup_lr = warmup_lr
        self.interval = interval
        self.final = final

    def build(self, optimizer: Optimizer, steps: int, epochs: int) -> LRScheduler:
        """A LambdaLR."""
        total = max(1, epochs if self.interval == "epoch" else steps)
        bases = [group["lr"] for group in optimizer.param_groups]
        return LambdaLR(optimizer, [self._factor(base, total) for base in bases])

    def _factor(self, base: float, total: int) -> Callable[[int], float]:
        def factor(at: int) -> float:
            if at < self.warmup:
                return self.warmup_lr / base
            half = 0.5 * (1 + math.cos(math.pi * min(1.0, (at - self.warmup) / total)))
            return self.final + (1 - self.final) * half

        return factor


class TorchSchedule(Schedule):
    """Any scheduler of torch.

    Args:
        scheduler: Class and arguments, e.g. `torch.optim.lr_scheduler.StepLR`.
        interval: Step after every epoch or after every optimiser step.
    """

    def __init__(self, scheduler: LRSchedulerCallable, interval: Interval = "epoch") -> None:
        self.scheduler = scheduler
        self.interval = interval

    def build(self, optimizer: Optimizer, steps: int, epochs: int) -> LRScheduler:
        """The scheduler as configured; it knows its own length."""
        scheduler = self.scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            raise TypeError(
                f"TorchSchedule: {type(scheduler).__name__} follows a metric; give a scheduler that follows time"
            )
        return scheduler
