"""SgVA-CLIP: a visual adapter with prototypes of the training images (Peng et al., TMM 2023, arXiv 2211.16191).

With x the pooled image feature in front of the projection P:

    z = ReLU(a W_2 ReLU(W_1 x) + (1 - a) x)              W_1 [widen d, d], W_2 [d, widen d], a learned, 0.5 at start
    p_c = mean of z / |z| over the training images of class c
    image@adapted.logits = s cos(z, p)                   vision-specific
    image@student.logits = s cos(P z, t)                 what the adapted feature says of the prompts
    image@prompt.logits  = s cos(P x, t)                 what the frozen feature says of them
    image.logits = share adapted + (1 - share) prompt    prompt alone on novel classes

The authors' loss: CE(adapted) + CE(prompt) - sum softmax(prompt / T) log softmax(student / T), T = 5, which are two
`ClassCrossEntropy` and a `Distillation`. Their text side is CoOp with four tokens: `Compose([CoOp(init="a photo of
a"), SgVA()])`.

Differs from the authors' code: x is taken in front of P, where theirs is the projected feature times the pseudo-inverse
of P, which has lost what P drops; prototypes are made of cached views of all training images instead of a few drawn for
an episode, so an image is compared with a prototype that it is part of; the share is an argument, not searched for.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domainvl.adapters._saved import check_support
from domainvl.adapters._scores import cosine_logits
from domainvl.adapters.base import Adapter, Side
from domainvl.backbones.base import Backbone
from domainvl.features import Features
from domainvl.tokens import TokenState
from domainvl.towers.base import Tower


class SgVA(Adapter):
    """Learned layers on the unprojected image feature, compared with prototypes of the training images.

    Args:
        widen: How many times wider the hidden layer is.
        share: Share of the prototypes in the fused scores.
        views: Augmented passes over the training images; the prototypes are made of all of them.
    """

    support: Tensor | None
    labels: Tensor | None

    def __init__(self, widen: int = 2, share: float = 0.5, views: int = 1) -> None:
        super().__init__()
        if widen < 1 or views < 1:
            raise ValueError(f"SgVA: widen and views must be positive, got {widen} and {views}")
        if not 0 < share <= 1:
            raise ValueError(f"SgVA: share must lie in 0..1 (0 excluded), got {share}")
        self.widen, self.share, self.support_views = widen, share, views
        self.register_buffer("support", None)
        self.register_buffer("labels", None)

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {"widen": self.widen, "share": self.share, "views": self.support_views}

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`."""
        width = backbone.image.pooled_width
        self.mix = nn.Parameter(torch.tensor(0.5))
        self.layers = nn.Sequential(
            nn.Linear(width, self.widen * width, bias=False),
            nn.ReLU(),
            nn.Linear(self.widen * width, width, bias=False),
        )
        self.to(backbone.logit_scale.device)

    def see(self, tower: Tower, image: Any) -> Tensor:
        """See `Adapter.see`: the feature in front of the projection."""
        return tower.pool(tower.run(tower.embed(image)))

    def take_support(self, features: Tensor, targets: Tensor) -> None:
        """See `Adapter.take_support`."""
        self.support = features.float().flatten(0, 1)
        self.labels = targets.float().repeat(len(features), 1)

    def adapted(self, pooled: Tensor) -> Tensor:
        """The adapted feature z from x, `[..., width]`."""
        return F.relu(self.mix * self.layers(pooled) + (1 - self.mix) * pooled)

    def prototypes(self) -> Tensor:
        """One per class, `[C, width]`; zero for a class without images, whose score is zero then."""
        if self.support is None or self.labels is None:
            raise RuntimeError("SgVA: take_support() or load_tensors() comes before scores")
        features = F.normalize(self.adapted(self.support), dim=-1)
        return self.labels.T @ features / self.labels.sum(dim=0).clamp_min(1)[:, None]

    def reads(self, side: Side) -> Collection[str]:
        """See `Adapter.reads`."""
        return ()

    def readout(self, side: Side, tower: Tower, state: TokenState) -> Features:
        """See `Adapter.readout`; adds `image@adapted.pooled` `[B, width]` and `image@student.pooled` `[B, D]`."""
        if side == "text":
            return super().readout(side, tower, state)
        pooled = tower.pool(state)
        adapted = self.adapted(pooled.float())
        return {
            "image.pooled": tower.project(pooled),
            "image@adapted.pooled": adapted,
            "image@student.pooled": tower.project(adapted.to(pooled.dtype)),
        }

    def logits(self, features: Features, scale: Tensor, novel: bool = False) -> Features:
        """See `Adapter.logits`; adds the scores that the losses read."""
        text = features["text.pooled"]
        prompt = cosine_logits(features["image.pooled"], text, scale)
        scores = {"image@prompt.logits": prompt}
        scores["image@student.logits"] = cosine_logits(features["image@student.pooled"], text, scale)
        if novel:
            return scores | {"image.logits": prompt}
        adapted = cosine_logits(features["image@adapted.pooled"], self.prototypes(), scale)
        fused = self.share * adapted + (1 - self.share) * prompt
        return scores | {"image@adapted.logits": adapted, "image.logits": fused}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """See `Adapter.load_tensors`; an empty support takes the saved one's size."""
        support, labels = tensors.get("support"), tensors.get("labels")
        if self.support is None and support is not None and labels is not None:
            check_support("SgVA", {"support": support, "labels": labels})
            self.support, self.labels = support.to(self.mix.device), labels.to(self.mix.device)
        super().load_tensors(tensors)
