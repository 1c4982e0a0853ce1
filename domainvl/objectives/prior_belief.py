"""PriorCLIP's belief in regions (arXiv 2405.10160): patches that a frozen prior finds important count for more.

An instruction u, which no gradient reaches, looks at the patches x_j of an image:

    b = softmax_j( cos(x_j, u) / t )        r_j = 1 / sqrt(rank of b_j, the highest is 1)
    w_j = b_j + r_j                         soft belief
    w_j = 0 beyond the first k patches      hard belief (`keep`), as in the paper's closed-domain model
    f = g/|g| + sum_j w_j x_j/|x_j| / sum_j w_j

and InfoNCE of f with texts teaches the image tower to have in g, its pooled feature, and in those patches what the text
says. It is a training loss over the features that the tower has anyway: nothing is added to what is exported.

Differs from the released code, on purpose:

- there `torch.sort`'s indices are taken for ranks, and weights have nothing to do with beliefs (a rank correlation of
  0.02); equal beliefs share a rank here, so that the order of patches does not matter;
- there the weighted tokens are divided by their length over all patches; over features, which the paper writes, the
  weights would cancel. Here features are normalised first and weighted then;
- padding has no belief, and every image is on its own: f does not depend on the rest of the batch;
- the prior is the untouched model's pooled feature (theirs: a second pretrained network through a linear layer), and
  patches are those behind the tower (theirs: in front of its first block, where all tokens join the instruction).
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


class PriorBelief(Objective):
    """Images, with the patches that a prior believes in, and texts find each other.

    Args:
        source: The pooled feature g; its tokens and mask are the patches.
        target: A pooled feature of texts.
        prior: The instruction u.
        temperature: t.
        keep: Share of an image's patches that count; 1 for all of them.
        targets: Policies of what counts as a match and what counts at all.
        weight: Factor in the weighted sum.
    """

    def __init__(
        self,
        source: str = "image.pooled",
        target: str = "text.pooled",
        prior: str = "frozen/image.pooled",
        temperature: float = 0.07,
        keep: float = 1.0,
        targets: Sequence[TargetPolicy] = (),
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        if temperature <= 0:
            raise ValueError(f"PriorBelief: temperature must be above 0, got {temperature}")
        if not 0 < keep <= 1:
            raise ValueError(f"PriorBelief: keep must be above 0 and at most 1, got {keep}")
        self.source, self.target, self.prior = (str(FeatureKey.parse(key)) for key in (source, target, prior))
        self.tokens, self.mask = (self.source.replace(".pooled", f".{stream}") for stream in ("tokens", "mask"))
        self.temperature, self.keep, self.policies = temperature, keep, list(targets)

    @property
    def needs(self) -> frozenset[str]:
        """Pooled features, patches, the prior, and what the policies read."""
        own = {self.source, self.target, self.prior, self.tokens, self.mask}
        return frozenset(own) | policy_needs(self.policies, self.source, self.target)

    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The loss, and how often the best partner is a match."""
        image = self.believed(features)
        text = features[self.target]
        columns = (context.gather(image), context.gather(text))
        sides = Sides(features, batch, context)
        rules = (
            bind(self.policies, Pairs(self.source, self.target, image, columns[1], sides)),
            bind(self.policies, Pairs(self.target, self.source, text, columns[0], sides)),
        )
        done = both_ways(image, text, context, columns=columns, rules=rules)
        return {"loss": done.loss, "accuracy": done.accuracy}

    def believed(self, features: Features) -> Tensor:
        """f, `[B, D]`, not normalised."""
        with torch.autocast(features[self.source].device.type, enabled=False):
            pooled, tokens = (F.normalize(wide(features[key]), dim=-1) for key in (self.source, self.tokens))
            weights = belief_weights(tokens, features[self.mask], features[self.prior], self.temperature, self.keep)
            share = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
            return pooled + (share[:, None] @ tokens).squeeze(1)


def belief_weights(tokens: Tensor, mask: Tensor, prior: Tensor, temperature: float, keep: float = 1.0) -> Tensor:
    """w, `[B, L]`; 0 where a patch is padding or beyond those that are kept.

    Args:
        tokens: x, normalised, `[B, L, D]`.
        mask: Which of them are real, `[B, L]`.
        prior: u, `[B, D]`; no gradient reaches it.
        temperature: t.
        keep: Share of an image's patches that count, rounded up.
    """
    instruction = F.normalize(wide(prior.detach()), dim=-1)
    scores = (tokens @ instruction[:, :, None]).squeeze(2) / temperature
    # An image without a patch would have no softmax.
    real = mask | ~mask.any(1, keepdim=True)
    belief = scores.masked_fill(~real, -torch.inf).softmax(1)
    rank = belief_ranks(scores.detach().masked_fill(~real, -torch.inf))
    weights = belief + rank.to(belief.dtype).rsqrt()
    last = torch.ceil(mask.sum(1, keepdim=True) * keep - 1e-6)
    return weights.masked_fill(~mask | (rank > last), 0.0)


def belief_ranks(scores: Tensor) -> Tensor:
    """The place of every score in its row `[B, L]`, from 1 for the highest; equal ones share the best of theirs."""
    falling = (-scores).contiguous()
    return torch.searchsorted(falling.sort(1).values, falling) + 1
