"""What methods share that read a slide as a bag of tiles.

A bag is `image.tokens` `[B, N, D]` (tiles in the joint space), `image@deep.tokens` `[B, N, W]` (in front of the
projection) and `image.mask` `[B, N]`, False where a shorter bag was filled up. The order of tiles means nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domainvl.features import Features


def mean_tile(bag: Features) -> Tensor:
    """The mean direction of a slide's real tiles, `[B, D]`."""
    unit = F.normalize(bag["image.tokens"].float(), dim=-1)
    share = bag["image.mask"].to(unit.dtype)
    return (unit * share[..., None]).sum(dim=1) / share.sum(dim=1, keepdim=True)


def shares(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the real tiles: scores `[B, K, N]`, mask `[B, N]`."""
    return scores.masked_fill(~mask[:, None], -torch.inf).softmax(dim=-1)


def of_bag(method: str, features: Features, key: str) -> Tensor:
    """A feature that `Adapter.pool_tiles` made of a bag; raise where there was no bag."""
    if key not in features:
        raise TypeError(f"{method} pools the tiles of slides and got a picture; use it in the task SlideClassification")
    return features[key]


class TileAttention(nn.Module):
    """Scores of tiles: `w (tanh(V h) * sigmoid(U h))`, without the second factor where not `gated`.

    Args:
        size: Size of h.
        width: Rows of V and U.
        branches: Rows of w.
        gated: Whether there is a U.
        dropout: Behind both hidden layers.
    """

    def __init__(self, size: int, width: int, branches: int = 1, gated: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.content = nn.Linear(size, width)
        self.gate = nn.Linear(size, width) if gated else None
        # The authors' bias here is cancelled by the softmax.
        self.score = nn.Linear(width, branches, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tiles: Tensor) -> Tensor:
        """Tiles `[B, N, size]` to scores `[B, branches, N]`."""
        hidden = self.dropout(torch.tanh(self.content(tiles)))
        if self.gate is not None:
            hidden = hidden * self.dropout(torch.sigmoid(self.gate(tiles)))
        scores: Tensor = self.score(hidden).transpose(1, 2)
        return scores
