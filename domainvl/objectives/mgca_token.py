"""Token-wise alignment of MGCA (Wang et al., NeurIPS 2022, arXiv 2210.06044), inside each record.

For a word w_i and the patches p of its image, all of length one:

    c_i = norm(sum_n softmax_n(w_i p_n / t) p_n)        what word i finds in the image
    L_word = sum_i a_i (CE_i(w c^T / t) + CE_i(c w^T / t)) / 2

each word against what the others of the report found; L_patch is the same with the sides exchanged, and the loss is
their sum, the mean over records. a are weights that sum to 1: how much the pooled output attends to a token, cut to its
10 % and 90 % quantiles, where `image.attention` or `text.attention` are offered; even otherwise (the authors' patches
of a CNN).

The authors' instance term is `InfoNCE` at a scale of 1/0.07, as the sum of both directions: weights of 2 there, 0.7
here and 0.5 for `MgcaPrototype` are the paper's; 2, 1 and 1 are the default of their command line.

`as_published` brings two slips of the authors' code back: words that are padding stay among those that a word is
told from, and what a patch found is not normalised where patches have weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from domainvl.features import Batch, Features
from domainvl.objectives._tokens import beside, exact, never_empty, real_tokens, tokens_key
from domainvl.objectives.base import OPTIONAL, Context, Objective
from domainvl.objectives.contrast_parts import row_sum, wide


class MgcaToken(Objective):
    """A word knows what it finds in its image from what other words find, and a patch likewise.

    Args:
        image: Patches, `[B, N, D]`.
        text: Words, `[B, L, D]`.
        temperature: t.
        as_published: See above; for comparison with published figures only.
        weight: Factor in the weighted sum.
    """

    def __init__(
        self,
        image: str = "image.tokens",
        text: str = "text.tokens",
        temperature: float = 0.1,
        as_published: bool = False,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        if temperature <= 0:
            raise ValueError(f"MgcaToken: temperature must be positive, got {temperature}")
        self.image, self.text = tokens_key("MgcaToken", image), tokens_key("MgcaToken", text)
        self.temperature, self.as_published = temperature, as_published

    @property
    def needs(self) -> frozenset[str]:
        """Both local features with their masks, and how much attention they get where somebody knows."""
        keys = (self.image, self.text)
        attention = {beside(key, "attention") + OPTIONAL for key in keys}
        return frozenset(keys) | {beside(key, "mask") for key in keys} | attention

    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The loss and its two halves."""
        patches, patch_mask = real_tokens(features, self.image)
        words, word_mask = real_tokens(features, self.text)
        if self.as_published:
            words = wide(features[self.text])
        patch_attention, word_attention = (features.get(beside(key, "attention")) for key in (self.image, self.text))
        kept = patch_mask.any(dim=1) & word_mask.any(dim=1)
        with exact(words):
            patches, words = F.normalize(patches, dim=-1), F.normalize(words, dim=-1)
            found = self._found(words, patches, patch_mask)
            of_words = self._told_apart(words, F.normalize(found, dim=-1), word_mask, word_attention)
            found = self._found(patches, words, word_mask)
            if not self.as_published or patch_attention is None:
                found = F.normalize(found, dim=-1)
            of_patches = self._told_apart(patches, found, patch_mask, patch_attention)
            total = row_sum(kept, None, words.dtype, "sum", context.gather)
            word, patch = (each.where(kept, 0.0).sum() / total for each in (of_words, of_patches))
        return {"loss": word + patch, "word": word.detach(), "patch": patch.detach()}

    def _found(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """What queries `[B, Q, D]` find among keys `[B, K, D]`, `[B, Q, D]`."""
        scores = queries @ keys.transpose(1, 2) / self.temperature
        return scores.masked_fill(~never_empty(mask)[:, None], -torch.inf).softmax(dim=-1) @ keys

    def _told_apart(self, tokens: Tensor, found: Tensor, mask: Tensor, attention: Tensor | None) -> Tensor:
        """The loss of every record, `[B]`."""
        scores = tokens @ found.transpose(1, 2) / self.temperature
        others = torch.ones_like(mask) if self.as_published else never_empty(mask)
        forth = scores.masked_fill(~others[:, None], -torch.inf).log_softmax(dim=2)
        back = scores.masked_fill(~others[:, :, None], -torch.inf).log_softmax(dim=1)
        each = -(forth + back).diagonal(dim1=1, dim2=2).where(mask, 0.0) / 2
        return (weights(attention, mask, each.dtype) * each).sum(dim=1)


@torch.no_grad()
def weights(attention: Tensor | None, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights `[B, L]` that sum to 1 over real tokens, 0 elsewhere: even, or after attention without its extremes."""
    share = mask.to(dtype)
    if attention is not None:
        # What gets no attention at all keeps none.
        known = wide(attention).to(dtype).where(mask & (attention > 0), torch.nan)
        low, high = (known.nanquantile(q, dim=1, keepdim=True) for q in (0.1, 0.9))
        share = torch.minimum(torch.maximum(known, low), high).nan_to_num(0.0)
    return share / share.sum(dim=1, keepdim=True).clamp_min(torch.finfo(dtype).tiny)
