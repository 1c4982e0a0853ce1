"""What `python -m domainvl embed` asks of a data module."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import nn


@dataclass(frozen=True)
class Embedded:
    """What was embedded.

    Attributes:
        folder: Where the features lie.
        there: Files that were there already.
        made: Files that were made.
        rejected: What could not be embedded.
        tiles: Tiles that were embedded.
        seconds: How long it took.
    """

    folder: Path
    there: int
    made: int
    rejected: int
    tiles: int
    seconds: float


@runtime_checkable
class Embeds(Protocol):
    """A data module whose samples can be embedded ahead of training."""

    def embed(self, backbone: nn.Module, device: torch.device) -> Embedded:
        """Embed everything that has no features yet."""
