"""Adaptive weights with a second text (ALIP, Yang et al., ICCV 2023, arXiv 2308.08428).

A raw text and a caption of the same image, which somebody or something else wrote, vouch for each other. With S the
cosines of a record (text-caption, image-text, image-caption) and H their running means over batches:

    w_s = min(1, e^{gamma (S_tc - H_tc)})                        is the record to be trusted
    w_t = e^{gamma (S_it - H_it)}, w_c = e^{gamma (S_ic - H_ic)} where w_s < 1, else 1
    loss = mean_i w_s w_t l_i(image, text) + mean_i w_c l_i(image, caption)

l_i is the symmetric InfoNCE of a record. Weights carry no gradient, and the means are those of all processes.

Two things differ from the authors' code. There w_s also weighs the caption, so that a record with a broken text loses
two thirds of its good caption too: `gate_caption` brings that back. And there H starts at 1, which makes all weights
small for some hundred steps; here it starts at the means of the first batch: `start: 1.0` brings that back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from domainvl.features import Batch, FeatureKey, Features
from domainvl.objectives.base import Context, Objective
from domainvl.objectives.contrast import both_ways
from domainvl.objectives.contrast_parts import wide
from domainvl.objectives.targets.base import Pairs, Sides, TargetPolicy, bind, policy_needs


class Alip(Objective):
    """InfoNCE with two texts, each record weighed by how well its three parts fit together.

    Args:
        image: The pooled feature of images.
        text: That of texts which may not fit.
        caption: That of the second text.
        gamma: How steeply weights fall below the mean.
        momentum: Of the running means.
        gate_caption: Weigh the caption with w_s too, as published; a caption is then lost with its broken text.
        start: Where the running means start; 1 as published, null for the means of the first batch.
        targets: Policies of what counts as a match, for both texts; see `InfoNCE`.
        weight: Factor in the weighted sum.
    """

    means: Tensor

    def __init__(
        self,
        image: str = "image.pooled",
        text: str = "text.pooled",
        caption: str = "text@caption.pooled",
        gamma: float = 2.0,
        momentum: float = 0.99,
        gate_caption: bool = False,
        start: float | None = None,
        targets: Sequence[TargetPolicy] = (),
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        if gamma < 0:
            raise ValueError(f"Alip: gamma must not be negative, got {gamma}")
        if not 0 <= momentum < 1:
            raise ValueError(f"Alip: momentum must be at least 0 and below 1, got {momentum}")
        self.image, self.text, self.caption = (str(FeatureKey.parse(key)) for key in (image, text, caption))
        self.gamma, self.momentum, self.gate_caption, self.policies = gamma, momentum, gate_caption, list(targets)
        # Not a number: there is no mean yet.
        self.register_buffer("means", torch.full((3,), torch.nan if start is None else start))

    @property
    def needs(self) -> frozenset[str]:
        """The three features, and what the policies read."""
        own = frozenset({self.image, self.text, self.caption})
        return own.union(*(policy_needs(self.policies, self.image, other) for other in (self.text, self.caption)))

    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The loss, the loss of either text, and the mean weights."""
        trust, text, caption = self.gates(features[self.image], features[self.text], features[self.caption], context)
        weights = {self.text: trust * text, self.caption: trust * caption if self.gate_caption else caption}
        sides = Sides(features, batch, context)
        image, images = features[self.image], context.gather(features[self.image])
        losses = {}
        for key, weight in weights.items():
            other, others = features[key], context.gather(features[key])
            forth = bind(self.policies, Pairs(self.image, key, image, others, sides))
            back = bind(self.policies, Pairs(key, self.image, other, images, sides))
            losses[key] = both_ways(
                image,
                other,
                context,
                columns=(images, others),
                rules=(forth, back),
                weights=weight,
                weight_norm="rows",
            ).loss
        return {
            "loss": losses[self.text] + losses[self.caption],
            "text": losses[self.text].detach(),
            "caption": losses[self.caption].detach(),
            "trust": trust.mean(),
        }

    @torch.no_grad()
    def gates(self, image: Tensor, text: Tensor, caption: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """w_s, w_t, w_c, `[B]` each; in training the running means move first."""
        image, text, caption = (F.normalize(wide(x), dim=-1) for x in (image, text, caption))
        cosines = torch.stack([(a * b).sum(-1) for a, b in ((text, caption), (image, text), (image, caption))], dim=1)
        now = context.gather(cosines).mean(dim=0)
        means = self.means.to(now)
        if self.training:
            means = self.momentum * means + (1 - self.momentum) * now
        means = now.where(means.isnan(), means)
        if self.training:
            self.means.copy_(means)
        trust, fits, caption_fits = ((cosines - means) * self.gamma).exp().unbind(dim=1)
        doubted = trust < 1
        return trust.clamp_max(1), fits.where(doubted, 1.0), caption_fits.where(doubted, 1.0)
