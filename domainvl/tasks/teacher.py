"""A teacher: the student with a running mean of its weights.

Only what is trained has a mean; the frozen backbone is shared, so a teacher of an adapter costs as much memory as the
adapter. It runs in evaluation mode, without gradients, and takes its step when the optimiser has taken one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    """A running mean of the weights: `mean <- decay mean + (1 - decay) weights` after every optimiser step.

    Args:
        decay: How much of the mean stays (ALBEF and TCL: .995).
    """

    def __init__(self, decay: float = 0.995) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"Teacher: decay is {decay}; it must be at least 0 and below 1")
        self.decay = decay
        self._weights: list[nn.Parameter] = []
        self._step = 0

    def attach(self, weights: Iterable[nn.Parameter]) -> None:
        """Start as a copy of these weights."""
        self._weights = list(weights)
        for number, weight in enumerate(self._weights):
            self.register_buffer(f"mean_{number}", weight.detach().clone())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the weights, once per optimiser step; `step` counts these."""
        if step == self._step:
            return
        self._step = step
        for mean, weight in zip(self._means(), self._weights, strict=True):
            mean.lerp_(weight.to(mean.dtype), 1 - self.decay)

    @contextmanager
    def active(self, *modules: nn.Module) -> Iterator[None]:
        """Let the model run with the means, its `modules` in evaluation mode."""
        modes = [(module, module.training) for parent in modules for module in parent.modules()]
        own = [weight.data for weight in self._weights]
        for weight, mean in zip(self._weights, self._means(), strict=True):
            weight.data = mean
        for module, _ in modes:
            module.training = False
        try:
            with torch.no_grad():
                yield
        finally:
            for weight, data in zip(self._weights, own, strict=True):
                weight.data = data
            for module, mode in modes:
                module.training = mode

    def _means(self) -> list[Tensor]:
        return [getattr(self, f"mean_{number}") for number in range(len(self._weights))]
