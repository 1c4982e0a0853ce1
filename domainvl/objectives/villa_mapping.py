"""Which region shows what: the mapping model of ViLLA (Varma et al., ICCV 2023, arXiv 2308.11194), its first stage.

The model below stays frozen. Every attribute a (a class of the data) has a small network f_a on region features r; an
image scores by its best region:

    s_ia = max_r cos(f_a(r), t_a) / t
    loss = mean over (i, a) where i shows a of - log e^{s_ia} / (e^{s_ia} + sum over images without a of e^{s_ja})

Images of which nobody knows whether they show a are on neither side. Afterwards region r of an image with a shows a if

    cos(f_a(r), t_a) >= max_r cos(f_a(r), t_a) - epsilon

The authors multiply the scores of images that do show a by zero inside the exponential, so that each of them adds 1 to
the sum: `as_published` brings that back. Their regions are boxes stored on disk; here they are the patches of this very
view, so that pairs stay right when images are augmented, and nothing is stored.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domainvl.features import Batch, Features
from domainvl.objectives._tokens import beside, exact, real_tokens, tokens_key
from domainvl.objectives.base import Context, Objective
from domainvl.objectives.contrast_parts import row_sum, wide


class VillaMapping(Objective):
    """Learn, from labels of whole images, which of their regions show what.

    Args:
        attributes: Number of classes, each with a network of its own; null for one network that all share.
        tokens: Region features, `[B, R, D]`.
        texts: What attributes are called, `[A, D]`.
        temperature: t.
        epsilon: How far below the best region another still counts.
        keep: Share of the region feature that goes past the network (0.8 in the authors' adapter variant).
        as_published: See above; for comparison with published figures only.
        weight: Factor in the weighted sum.
    """

    def __init__(
        self,
        attributes: int | None = None,
        tokens: str = "frozen/image.tokens",
        texts: str = "frozen/text@classes.pooled",
        temperature: float = 0.07,
        epsilon: float = 0.2,
        keep: float = 0.0,
        as_published: bool = False,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        if attributes is not None and attributes < 1:
            raise ValueError(f"VillaMapping: attributes must be at least 1, or null for one network; got {attributes}")
        if temperature <= 0 or epsilon < 0:
            raise ValueError(
                f"VillaMapping: temperature must be positive and epsilon not negative, got {temperature} and {epsilon}"
            )
        if not 0 <= keep < 1:
            raise ValueError(f"VillaMapping: keep must be at least 0 and below 1, got {keep}")
        self.attributes, self.tokens, self.texts = attributes, tokens_key("VillaMapping", tokens), texts
        self.temperature, self.epsilon, self.keep, self.as_published = temperature, epsilon, keep, as_published

    @property
    def needs(self) -> frozenset[str]:
        """Regions with their mask, attributes, and which image shows which."""
        return frozenset({self.tokens, beside(self.tokens, "mask"), self.texts, "batch:label", "batch:valid?"})

    def attach(self, sizes: Mapping[str, int]) -> None:
        """Make the networks: two layers each, as wide as a feature."""
        width = sizes[self.tokens]
        if sizes[self.texts] != width:
            raise ValueError(
                f"VillaMapping: {self.tokens} has {width} numbers and {self.texts} {sizes[self.texts]}; they are "
                f"compared, so they must be of one space"
            )
        for layer in (1, 2):
            made = [nn.Linear(width, width) for _ in range(self.attributes or 1)]
            for name in ("weight", "bias"):
                stacked = torch.stack([getattr(one, name).detach() for one in made])
                self.register_parameter(f"{name}{layer}", nn.Parameter(stacked))

    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The loss."""
        cosines = self.cosines(features)
        shows, lacks = self._labels(features, batch, cosines.shape[-1])
        with exact(cosines):
            best = (cosines.amax(dim=1) / self.temperature).where(shows | lacks, 0.0)
            rivals = context.gather(best).masked_fill(~context.gather(lacks), -torch.inf).logsumexp(dim=0)
            if self.as_published:
                rivals = rivals.logaddexp(context.gather(shows).sum(dim=0).clamp_min(1).to(rivals.dtype).log())
            # Where nobody lacks it there is nothing to be told from: softplus of minus infinity is 0.
            each = F.softplus(rivals - best).where(shows, 0.0)
            return {"loss": each.sum() / row_sum(shows.flatten(), None, each.dtype, "sum", context.gather)}

    def cosines(self, features: Features) -> Tensor:
        """Of every region and attribute, `[B, R, A]`; minus infinity where a region is padding."""
        tokens, mask = real_tokens(features, self.tokens)
        texts = F.normalize(wide(features[self.texts].detach()), dim=-1)
        if self.attributes not in (None, len(texts)):
            raise ValueError(
                f"VillaMapping: attributes is {self.attributes}, but {self.texts} names {len(texts)}; set attributes "
                f"to that, or to null for one network that all share"
            )
        with exact(tokens):
            flat = tokens.detach().flatten(0, 1)
            hidden = (flat @ self.weight1.transpose(1, 2) + self.bias1[:, None]).relu()
            mapped = hidden @ self.weight2.transpose(1, 2) + self.bias2[:, None]
            mapped = F.normalize((1 - self.keep) * mapped + self.keep * flat, dim=-1)
            cosines = torch.einsum("and,ad->na", mapped.expand(len(texts), -1, -1), texts)
            return cosines.unflatten(0, tokens.shape[:2]).masked_fill(~mask[..., None], -torch.inf)

    @torch.no_grad()
    def pairs(self, features: Features, batch: Batch) -> tuple[Tensor, Tensor]:
        """Which region shows what, `[B, R, A]` bool, and how well it does beside the best region, `[B, R]` up to 0."""
        cosines = self.cosines(features)
        shows, _ = self._labels(features, batch, cosines.shape[-1])
        below = cosines - cosines.amax(dim=1, keepdim=True)
        shown = (below >= -self.epsilon) & shows[:, None]
        return shown, below.masked_fill(~shown, -torch.inf).amax(dim=-1)

    def _labels(self, features: Features, batch: Batch, count: int) -> tuple[Tensor, Tensor]:
        """Which images show an attribute and which are known not to, `[B, A]` each; none without regions."""
        label = batch["label"]
        label = F.one_hot(label, count) if label.dim() == 1 else label
        if label.shape[1] != count:
            raise ValueError(f"VillaMapping: labels of {label.shape[1]} classes do not fit {count} in {self.texts}")
        known = features[beside(self.tokens, "mask")].any(dim=1, keepdim=True)
        if "valid" in batch:
            known = known & batch["valid"]
        return known & (label == 1), known & (label == 0)

    weight1: Tensor
    weight2: Tensor
    bias1: Tensor
    bias2: Tensor
