"""A phrase is as near to an image as the regions that show it: contrast of whole texts with single regions.

For image i with R regions v and text j with the pooled feature t, all of length one, and the model's own scale s:

    Z_ij = 1/k log mean_r e^{k cos(v_ir, t_j)}
    loss = half of CE(s Z) + half of CE(s Z^T), each row against its own column

Z lies between the mean (k near 0) and the best region (k large): the pooling by log-sum-exp of Pinheiro and Collobert
(CVPR 2015, arXiv 1411.6228), in place of the word attention of `GloriaLocal`. The contrast is ours, there is no
published code to compare it with. It trains what phrase grounding reads, the cosine of a region with the feature of
the whole phrase, so texts should be single sentences:

    texts: {views: {impression: 1.0}, sentences: true, extra: [impression]}     with InfoNCE on text@impression.pooled

Short sentences repeat within a batch; the policy `TextSimilarity` leaves out those that say the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from domainvl.features import Batch, FeatureKey, Features
from domainvl.objectives._scored import by_texts, one_way
from domainvl.objectives._tokens import beside, exact, gather_tokens, never_empty, real_tokens, tokens_key
from domainvl.objectives.base import Context, Objective, alone
from domainvl.objectives.contrast_parts import halves, wide
from domainvl.objectives.targets.base import TargetPolicy, policy_needs


class PhraseRegions(Objective):
    """A text finds its image by the regions that fit it best, and an image its text.

    Args:
        image: Local features of images, `[B, R, D]`.
        text: A pooled feature, `[B, D]`, best of single sentences.
        sharpness: k, how much the best region counts for more than the mean.
        targets: Policies of what counts as a match; they read the pooled features of both sides.
        weight: Factor in the weighted sum.
    """

    def __init__(
        self,
        image: str = "image.tokens",
        text: str = "text.pooled",
        sharpness: float = 30.0,
        targets: Sequence[TargetPolicy] = (),
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        if sharpness <= 0:
            raise ValueError(f"PhraseRegions: sharpness must be positive, got {sharpness}")
        self.image, self.text = tokens_key("PhraseRegions", image), str(FeatureKey.parse(text))
        if FeatureKey.parse(text).stream != "pooled":
            raise ValueError(f"PhraseRegions: text is one feature per text, 'text.pooled' or the like, got {text!r}")
        self.sharpness, self.policies = sharpness, list(targets)

    @property
    def needs(self) -> frozenset[str]:
        """Regions with their mask, and texts; with policies what these read, and the pooled features of images."""
        needs = frozenset({self.image, beside(self.image, "mask"), self.text})
        if not self.policies:
            return needs
        pooled = beside(self.image, "pooled")
        return needs | {pooled} | policy_needs(self.policies, pooled, self.text)

    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The loss, and how often the best partner is a match."""
        regions, mask = real_tokens(features, self.image)
        text = wide(features[self.text])
        others, other_mask = gather_tokens(regions, mask, context)
        with exact(text):
            of_images = self.similarity(regions, mask, context.gather(text))
            of_texts = of_images if context.gather is alone else self.similarity(others, other_mask, text)
            scale = context.scale.to(text)
        shown, keys = mask.any(dim=1), (beside(self.image, "pooled"), self.text)
        ways = []
        for scores, known, names in (
            (of_images, shown[:, None].expand_as(of_images), keys),
            (of_texts.T, other_mask.any(dim=1).expand_as(of_texts.T), keys[::-1]),
        ):
            ways.append(one_way(scale * scores, known, names, self.policies, features, batch, context))
        both = halves(*ways)
        return {"loss": both.loss, "accuracy": both.accuracy}

    def similarity(self, regions: Tensor, mask: Tensor, texts: Tensor) -> Tensor:
        """Z of images and texts, `[I, T]`."""
        regions = F.normalize(regions, dim=-1)
        run = partial(self._similarity, regions, never_empty(mask))
        return by_texts(run, (F.normalize(texts, dim=-1),), len(regions) * regions.shape[1])

    def _similarity(self, regions: Tensor, mask: Tensor, texts: Tensor) -> Tensor:
        cosines = torch.einsum("ird,td->itr", regions, texts).masked_fill(~mask[:, None], -torch.inf)
        count = mask.sum(dim=1).to(texts.dtype).log()
        return ((self.sharpness * cosines).logsumexp(dim=-1) - count[:, None]) / self.sharpness
