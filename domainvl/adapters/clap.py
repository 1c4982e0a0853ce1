"""CLAP and ZS-LP: a class-adaptive linear probe (Silva-Rodríguez et al., CVPR 2024, arXiv 2312.12730).

Rows w_c start at the zero-shot class features t_c:

    image.logits = s cos(f, w)
    loss = cross-entropy + mean_c lambda_c |w_c - t_c|^2                the second term is `penalty`

lambda_c is how sure the zero-shot model is of class c: the mean, over the training images of that class in all
augmented views, of the probability that it gives to c. So classes that the prompt describes well stay where they
are. Without the constraint (`strength: 0`) this is the authors' ZS-LP. An augmented-Lagrangian outer step, with h_c the
squared distance and rho_c starting at zero, is lambda_c <- max(0, lambda_c + rho_c h_c), rho_c <- h_c; the authors'
published runs take none.

Differs from the authors' code: rows start at `length` times the unit class features, where theirs keep the length that
CLIP gives them (about ten; learning rate and constraint depend on it); training sees images, not 20 cached
views; a class without images is held with lambda = 1, where theirs divides zero by zero. In multi-label data the
prompt that says yes is compared with the one that says no.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from domainvl.adapters._scores import cosine_logits
from domainvl.adapters.base import Adapter
from domainvl.backbones.base import Backbone
from domainvl.features import Features


class CLAP(Adapter):
    """One learned row per class, held near the zero-shot classifier where that is good.

    Args:
        strength: Factor on the constraint; 0 is ZS-LP.
        length: Length of the rows at start.
        outer_steps: Number of epochs after which the multipliers are updated.
        views: Augmented passes that the multipliers are computed from.
    """

    start: Tensor
    multipliers: Tensor
    penalties: Tensor

    def __init__(self, strength: float = 1.0, length: float = 10.0, outer_steps: int = 0, views: int = 20) -> None:
        super().__init__()
        if strength < 0 or outer_steps < 0:
            raise ValueError(f"CLAP: strength and outer_steps must not be negative, got {strength} and {outer_steps}")
        if length <= 0 or views < 1:
            raise ValueError(f"CLAP: length and views must be positive, got {length} and {views}")
        self.strength, self.length, self.outer_steps, self.views = strength, length, outer_steps, views
        self.support_views = views if strength > 0 else 0
        self.register_parameter("rows", None)

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {
            "strength": self.strength,
            "length": self.length,
            "outer_steps": self.outer_steps,
            "views": self.views,
        }

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`."""
        self._scale = float(backbone.scale().detach())

    def prime(self, classes: Tensor) -> None:
        """See `Adapter.prime`: makes the rows, one for each of `classes` `[C, D]`."""
        start = self.length * classes.detach().float()
        self.rows = nn.Parameter(start.clone())
        self.register_buffer("start", start, persistent=False)
        self.register_buffer("multipliers", torch.zeros_like(start[:, 0]))
        self.register_buffer("penalties", torch.zeros_like(start[:, 0]))

    def take_support(self, features: Tensor, targets: Tensor) -> None:
        """See `Adapter.take_support`: how sure zero-shot is of the right class gives the multipliers."""
        scores = cosine_logits(features.flatten(0, 1), self.start, self._scale)
        if float(targets.sum(dim=1).max()) > 1:
            # Several prompts are true of an image: the data is multi-label, and prompts come in pairs.
            yes, no = scores.chunk(2, dim=-1)
            sure = torch.cat([(yes - no).sigmoid(), (no - yes).sigmoid()], dim=-1)
        else:
            sure = scores.softmax(dim=-1)
        true = targets.float().repeat(len(features), 1)
        count = true.sum(dim=0)
        self.multipliers.copy_(torch.where(count > 0, (sure * true).sum(dim=0) / count.clamp_min(1), 1.0))

    def epoch_ended(self, epoch: int, epochs: int) -> None:
        """See `Adapter.epoch_ended`: the outer step."""
        if self.strength > 0 and epoch < self.outer_steps:
            distance = self._distance().detach()
            self.multipliers.copy_((self.multipliers + self.penalties * distance).clamp_min(0))
            self.penalties.copy_(distance)

    def penalty(self) -> Tensor | None:
        """See `Adapter.penalty`: the constraint."""
        return self.strength * (self.multipliers * self._distance()).mean() if self.strength > 0 else None

    def _distance(self) -> Tensor:
        return (self._primed() - self.start).square().sum(dim=-1)

    def _primed(self) -> Tensor:
        if self.rows is None:
            raise RuntimeError("CLAP: prime() with the zero-shot class features comes before scores")
        return self.rows

    def logits(self, features: Features, scale: Tensor, novel: bool = False) -> Features:
        """See `Adapter.logits`; `text.pooled` is not read."""
        if novel:
            raise ValueError("CLAP knows the classes of its training alone; it cannot score novel ones")
        return {"image.logits": cosine_logits(features["image.pooled"], self._primed(), scale)}

    def only_known_classes(self) -> bool:
        """See `Adapter.only_known_classes`."""
        return True
