"""Attention-weighted contrast of words and regions (GLoRIA, Huang et al., ICCV 2021).

For image i with regions v and text j with words w, neither normalised:

    a_rw = softmax over w of v_r w         alpha_wr = softmax over r of k_1 a_rw         c_w = sum_r alpha_wr v_r
    Z_ij = log sum_w e^{k_2 cos(w, c_w)}
    loss = half of CE(k_3 Z) + half of CE(k_3 Z^T), each row against its own column

with k = 4, 5, 10. The authors' total is 1.0 (CE + CE) here plus 1.0 (CE + CE) of the pooled features at a scale of 10:
the same weights for this objective and `InfoNCE` keep that balance.

The softmax over words comes first in the authors' code and is not in their paper; `word_softmax: false` is the paper.
Their words begin with the start token; here special tokens are no words. Padding is removed with minus infinity, and a
text without words, or an image without regions, takes no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from domainvl.features import Batch, Features
from domainvl.objectives._scored import by_texts, one_way
from domainvl.objectives._tokens import beside, exact, gather_tokens, never_empty, real_tokens, tokens_key
from domainvl.objectives.base import Context, Objective, alone
from domainvl.objectives.contrast_parts import halves
from domainvl.objectives.targets.base import TargetPolicy, policy_needs


class GloriaLocal(Objective):
    """Every word looks for its regions; a text and an image match as well as the words and what they found.

    Args:
        image: Local features of images, `[B, R, D]`.
        text: Words, `[B, W, D]`.
        region_scale: k_1, the authors' temp1.
        word_scale: k_2, the authors' temp2.
        scale: k_3, the authors' temp3.
        aggregate: Sum over words, as published, or their mean, which does not favour long texts.
        word_softmax: Words compete for a region before regions compete for a word, as in the authors' code.
        targets: Policies of what counts as a match; they read the pooled features of both sides.
        weight: Factor in the weighted sum.
    """

    def __init__(
        self,
        image: str = "image.tokens",
        text: str = "text.tokens",
        region_scale: float = 4.0,
        word_scale: float = 5.0,
        scale: float = 10.0,
        aggregate: Literal["sum", "mean"] = "sum",
        word_softmax: bool = True,
        targets: Sequence[TargetPolicy] = (),
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        for name, value in (("region_scale", region_scale), ("word_scale", word_scale), ("scale", scale)):
            if value <= 0:
                raise ValueError(f"GloriaLocal: {name} must be positive, got {value}")
        if aggregate not in ("sum", "mean"):
            raise ValueError(f"GloriaLocal: aggregate must be sum or mean, got {aggregate!r}")
        self.image, self.text = tokens_key("GloriaLocal", image), tokens_key("GloriaLocal", text)
        self.region_scale, self.word_scale, self.scale = region_scale, word_scale, scale
        self.aggregate, self.word_softmax, self.policies = aggregate, word_softmax, list(targets)

    @property
    def needs(self) -> frozenset[str]:
        """Both local features with their masks; with policies what these read, and the pooled features."""
        keys = (self.image, self.text)
        needs = frozenset(keys) | {beside(key, "mask") for key in keys}
        if not self.policies:
            return needs
        pooled = [beside(key, "pooled") for key in keys]
        return needs | set(pooled) | policy_needs(self.policies, pooled[0], pooled[1])

    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The loss, and how often the best partner is a match."""
        image, text = (real_tokens(features, key) for key in (self.image, self.text))
        images, texts = gather_tokens(*image, context), gather_tokens(*text, context)
        with exact(image[0]):
            of_images = self.similarity(*image, *texts)
            of_texts = of_images if context.gather is alone else self.similarity(*images, *text)
        ways = []
        for scores, rows, columns, key in (
            (of_images, image, texts, self.image),
            (of_texts.T, text, images, self.text),
        ):
            known = rows[1].any(dim=1)[:, None] & columns[1].any(dim=1)
            other = self.text if key == self.image else self.image
            names = (beside(key, "pooled"), beside(other, "pooled"))
            ways.append(one_way(self.scale * scores, known, names, self.policies, features, batch, context))
        both = halves(*ways)
        return {"loss": both.loss, "accuracy": both.accuracy}

    def similarity(self, regions: Tensor, region_mask: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        """Z of images and texts, `[I, T]`."""
        region_mask, word_mask = never_empty(region_mask), never_empty(word_mask)
        each = len(regions) * regions.shape[1] * words.shape[1]
        return by_texts(partial(self._similarity, regions, region_mask), (words, word_mask), each)

    def _similarity(self, regions: Tensor, region_mask: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        scores = torch.einsum("ird,twd->itrw", regions, words)
        if self.word_softmax:
            scores = scores.masked_fill(~word_mask[:, None], -torch.inf).softmax(dim=-1)
        scores = (self.region_scale * scores).masked_fill(~region_mask[:, None, :, None], -torch.inf)
        found = torch.einsum("itrw,ird->itwd", scores.softmax(dim=2), regions)
        fit = self.word_scale * F.cosine_similarity(words, found, dim=-1)
        total = fit.masked_fill(~word_mask, -torch.inf).logsumexp(dim=-1)
        return total if self.aggregate == "sum" else total - word_mask.sum(dim=1).to(total.dtype).log()
