"""CLAM's loss on single tiles (Lu et al., Nature BME 2021, arXiv 2004.09666): the attention has to tell them apart.

For a slide of class y the k tiles with the highest attention of y should be told, by a classifier of class y with two
outputs, from the k with the lowest:

    loss = mean over these 2 k tiles of CE(K_y h, 1 for the highest, 0 for the lowest)

Where classes exclude each other in tiles too (`subtyping`), the highest tiles of every other class c should be 0 under
K_c, and the C losses are averaged. The classifiers are used in training only.

Differs from the authors' code: it stops at slides with fewer than k tiles, here k is at most half of a slide's tiles,
so that no tile is both high and low; the mean is over the slides of a batch, which is one slide there.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domainvl.features import Batch, Features
from domainvl.objectives.base import Context, Objective

_TILES, _ATTENTION, _LOGITS = "image@bag.tokens", "image@bag.attention", "image.logits"


class ClamInstances(Objective):
    """Tells tiles with high attention from tiles with low.

    Args:
        tiles: Tiles at each end, k.
        subtyping: Whether tiles of one class are counter-examples of the others.
        weight: Factor in the weighted sum (CLAM: .3, beside .7 `ClassCrossEntropy`).
    """

    def __init__(self, tiles: int = 8, subtyping: bool = False, weight: float = 1.0) -> None:
        super().__init__(weight)
        if tiles < 1:
            raise ValueError(f"ClamInstances: tiles must be positive, got {tiles}")
        self.tiles, self.subtyping = tiles, subtyping

    @property
    def needs(self) -> frozenset[str]:
        """Tiles, their attention, which are real, and one class per slide; scores say how many classes there are."""
        return frozenset({_TILES, _ATTENTION, _LOGITS, "image.mask", "batch:label"})

    def attach(self, sizes: Mapping[str, int]) -> None:
        """One classifier with two outputs per class."""
        self.classifiers = nn.Linear(sizes[_TILES], 2 * sizes[_LOGITS])

    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The loss."""
        tiles, attention, mask, label = features[_TILES], features[_ATTENTION], features["image.mask"], batch["label"]
        if label.dim() != 1:
            raise ValueError(
                f"ClamInstances: labels of shape {tuple(label.shape)} are multi-label; leave this objective out"
            )
        classes = features[_LOGITS].shape[-1]
        if attention.shape[1] not in (1, classes):
            raise ValueError(
                f"ClamInstances: attention of {attention.shape[1]} branches for {classes} classes; ABMIL gives one, "
                "CLAM one per class"
            )
        attention = attention.expand(-1, classes, -1)
        # At least one tile at each end, and no more than half of a slide.
        count = (mask.sum(dim=1) // 2).clamp(min=1, max=self.tiles)
        rows = torch.arange(len(tiles), device=tiles.device)
        own = attention[rows, label]
        high, kept = _ends(own, mask, count)
        low, _ = _ends(-own, mask, count)
        loss = (self._told(tiles, label, high, kept, 1) + self._told(tiles, label, low, kept, 0)) / 2
        if self.subtyping:
            for step in range(1, classes):
                other = (label + step) % classes
                high, kept = _ends(attention[rows, other], mask, count)
                loss = loss + self._told(tiles, other, high, kept, 0)
            loss = loss / classes
        return {"loss": loss.mean()}

    def _told(self, tiles: Tensor, label: Tensor, chosen: Tensor, kept: Tensor, target: int) -> Tensor:
        """Mean cross-entropy of a slide's chosen tiles under the classifier of `label`, `[B]`."""
        weight, bias = self.classifiers.weight.unflatten(0, (-1, 2))[label], self.classifiers.bias.view(-1, 2)[label]
        some = tiles.gather(1, chosen[..., None].expand(-1, -1, tiles.shape[-1]))
        scores = some @ weight.transpose(1, 2) + bias[:, None]
        wanted = torch.full_like(chosen, target)
        losses = F.cross_entropy(scores.flatten(0, 1).float(), wanted.flatten(), reduction="none").view_as(chosen)
        return (losses * kept).sum(dim=1) / kept.sum(dim=1)


def _ends(scores: Tensor, mask: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The `count` `[B]` real tiles with the highest scores `[B, N]`: positions, and which of these count, `[B, k]`."""
    most = int(count.max())
    chosen = scores.masked_fill(~mask, -torch.inf).topk(most, dim=1).indices
    return chosen, torch.arange(most, device=scores.device) < count[:, None]
