"""Local-global mutual information of TCL (Yang et al., CVPR 2022, arXiv 2202.10401).

Every local feature of a record, as the teacher sees it, is nearer to the record's own global feature than any local of
any other record; other locals of the same record do not count against it:

    loss = mean_i mean_{l in i} - log e^{s g_i l} / (e^{s g_i l} + sum_{j != i} sum_{l' in j} e^{s g_i l'})

With N records of M locals and equal cosines that is ln(1 + (N - 1) M). No gradient reaches the locals.

Patches are averaged over windows of the grid first. The authors' window is the square root of the grid's side, which
must then be a square itself; here it is a number and the grid may have any shape, in two dimensions or three.

TCL is the mean of six terms. `weight` is 1/3 for the first and 1/6 for the others:

    itc:       {class_path: InfoNCE, init_args: {teacher: true, queue: true, targets: [{class_path: Momentum}]}}
    image:     {class_path: InfoNCE, init_args: {source: image.pooled, target: image@second.pooled, symmetric: false,
                                                 teacher: true, queue: true}}
    text:      {class_path: InfoNCE, init_args: {source: text.pooled, target: text.pooled, symmetric: false,
                                                 teacher: true, queue: true}}
    lmi_image: {class_path: TclLocalGlobal, init_args: {pool: 4}}
    lmi_text:  {class_path: TclLocalGlobal, init_args: {anchor: text.pooled, tokens: ema/text.tokens}}
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from domainvl.features import Batch, FeatureKey, Features
from domainvl.objectives._tokens import beside, exact, gather_tokens, real_tokens, tokens_key
from domainvl.objectives.base import Context, Objective
from domainvl.objectives.contrast_parts import row_sum, wide


class TclLocalGlobal(Objective):
    """Global features that know every local of their own record from those of others.

    Args:
        anchor: The global feature, `[B, D]`.
        tokens: The locals, `[B, L, D]`; the authors take the teacher's, of images in a second view.
        pool: Side of the windows over which patches are averaged; 1 for none (texts).
        weight: Factor in the weighted sum.
    """

    def __init__(
        self,
        anchor: str = "image.pooled",
        tokens: str = "ema/image@second.tokens",
        pool: int = 1,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        if pool < 1:
            raise ValueError(f"TclLocalGlobal: pool must be at least 1, got {pool}")
        self.anchor, self.tokens = str(FeatureKey.parse(anchor)), tokens_key("TclLocalGlobal", tokens)
        self.mask, self.grid, self.pool = beside(self.tokens, "mask"), beside(self.tokens, "grid"), pool

    @property
    def needs(self) -> frozenset[str]:
        """The global feature, the locals with their mask, and how patches lie where they are averaged."""
        return frozenset({self.anchor, self.tokens, self.mask} | ({self.grid} if self.pool > 1 else set()))

    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The loss."""
        anchor = F.normalize(wide(features[self.anchor]), dim=-1)
        with exact(anchor):
            tokens, mask = real_tokens(features, self.tokens)
            tokens = F.normalize(tokens.detach(), dim=-1)
            if self.pool > 1:
                tokens, mask = pooled(tokens, mask, features[self.grid].tolist(), self.pool)
            everybody, real = gather_tokens(tokens, mask, context)
            scores = context.scale.to(anchor) * torch.einsum("bd,mld->bml", anchor, everybody)
            index = torch.arange(len(anchor), device=anchor.device)
            own = index[:, None] + context.offset == torch.arange(len(everybody), device=anchor.device)
            others = scores.masked_fill(own[..., None] | ~real, -torch.inf).flatten(1).logsumexp(dim=1)
            # A record that is alone has nothing to be told from: softplus of minus infinity is 0.
            each = F.softplus(others[:, None] - scores[index, index + context.offset])
            counted = real[index + context.offset]
            mean = each.where(counted, 0.0).sum(dim=1) / counted.sum(dim=1).clamp_min(1)
            kept = counted.any(dim=1)
            return {"loss": mean.sum() / row_sum(kept, None, mean.dtype, "sum", context.gather)}


def pooled(tokens: Tensor, mask: Tensor, grid: list[int], window: int) -> tuple[Tensor, Tensor]:
    """Means of the real tokens in windows of a grid, those padded being zero.

    `[B, L, D]`, `[B, L]` to `[B, K, D]`, `[B, K]`.
    """
    mean = {2: F.avg_pool2d, 3: F.avg_pool3d}.get(len(grid))
    if mean is None:
        raise ValueError(f"TclLocalGlobal: pool wants a grid of two or three dimensions, got {grid}; set pool to 1")
    sizes = tuple(min(window, side) for side in grid)

    def windows(values: Tensor) -> Tensor:
        laid = values.transpose(1, 2).unflatten(2, grid)
        return mean(laid, sizes, stride=sizes, ceil_mode=True).flatten(2).transpose(1, 2)

    share = windows(mask[..., None].to(tokens.dtype))
    total = windows(tokens)
    filled = share > 0
    return total / share.where(filled, 1.0), filled.squeeze(-1)
