"""Contrast of regions and what they show: the second stage of ViLLA (Varma et al., ICCV 2023, arXiv 2308.11194).

For some epochs the mapping learns which region shows what; then it stands still, and pairs of a region and the mean of
the texts of what it shows are contrasted, together with pairs of a whole image and its report:

    loss = (CE(s v t^T) + CE(s t v^T)) / 2 over all pairs of the batch, whatever image they are from

Several regions of a batch show the same; the authors let them compete. As texts they are one and the same, so here they
are matches of each other, in equal parts.

The authors' text of a region is a sentence of the report that has the attribute's name in it, here it is the text of
the attribute itself. Of an image at most `regions` patches take part, those that fit best.

One of the two stages leaves the mapping without a gradient, the other whatever else is trained: distributed training
wants `strategy: ddp_find_unused_parameters_true`. In a recipe:

    villa:
      class_path: VillaRegions
      init_args: {mapping: {class_path: VillaMapping, init_args: {attributes: 14}}, mapping_epochs: 5}
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from domainvl.features import Batch, Features
from domainvl.objectives._tokens import beside, real_tokens, tokens_key
from domainvl.objectives.base import Context, Objective
from domainvl.objectives.contrast import both_ways
from domainvl.objectives.contrast_parts import Rule, wide
from domainvl.objectives.villa_mapping import VillaMapping


class VillaRegions(Objective):
    """Regions find the texts of what they show, after a mapping has learned what that is.

    Args:
        mapping: The mapping model, with a loss of its own.
        mapping_epochs: Epochs in which the mapping learns and nothing else; 0 for a mapping that is loaded.
        tokens: Region features that learn, `[B, R, D]`; of the same patches as the mapping's.
        whole: Pairs of whole images and reports take part too.
        regions: Most regions of an image that take part.
        weight: Factor in the weighted sum.
    """

    def __init__(
        self,
        mapping: VillaMapping,
        mapping_epochs: int = 5,
        tokens: str = "image.tokens",
        whole: bool = True,
        regions: int = 16,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        if mapping_epochs < 0 or regions < 1:
            raise ValueError(
                f"VillaRegions: mapping_epochs must not be negative and regions at least 1, got {mapping_epochs} and "
                f"{regions}"
            )
        self.mapping, self.mapping_epochs, self.regions = mapping, mapping_epochs, regions
        self.tokens, self.whole = tokens_key("VillaRegions", tokens), whole

    @property
    def needs(self) -> frozenset[str]:
        """What the mapping needs, the regions that learn, and whole images and reports where they take part."""
        own = {self.tokens, beside(self.tokens, "mask")} | ({"image.pooled", "text.pooled"} if self.whole else set())
        return self.mapping.needs | own

    def attach(self, sizes: Mapping[str, int]) -> None:
        """Make the networks of the mapping."""
        self.mapping.attach(sizes)

    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The loss of the stage that the epoch is in."""
        if context.epoch < self.mapping_epochs:
            return self.mapping(features, batch, context)
        shown, fit = self.mapping.pairs(features, batch)
        tokens, _ = real_tokens(features, self.tokens)
        if tokens.shape[:2] != fit.shape:
            raise ValueError(
                f"VillaRegions: {self.tokens} has {tokens.shape[1]} regions and {self.mapping.tokens} {fit.shape[1]}; "
                f"both must be of the same patches of the same view"
            )
        best = fit.topk(min(self.regions, fit.shape[1]), dim=1).indices[..., None]
        shown, regions = (x.gather(1, best.expand(-1, -1, x.shape[-1])) for x in (shown, tokens))
        attributes = F.normalize(wide(features[self.mapping.texts].detach()), dim=-1)
        texts = shown.to(attributes.dtype) @ attributes
        kinds, taken = set_numbers(shown), shown.any(dim=-1)
        if self.whole:
            regions = torch.cat([regions, wide(features["image.pooled"])[:, None]], dim=1)
            texts = torch.cat([texts, wide(features["text.pooled"])[:, None]], dim=1)
            # A report is of a kind of its own.
            own = -1 - context.offset - torch.arange(len(kinds), device=kinds.device)
            kinds = torch.cat([kinds, own[:, None]], dim=1)
            taken = torch.cat([taken, taken.new_ones(len(taken), 1)], dim=1)
        done = both_ways(
            regions.flatten(0, 1),
            texts.flatten(0, 1),
            context,
            rules=(same_kind(kinds, taken, context),) * 2,
        )
        return {"loss": done.loss, "accuracy": done.accuracy, "regions": shown.any(dim=-1).float().sum(dim=1).mean()}


def set_numbers(sets: Tensor) -> Tensor:
    """A number `[...]` for every set of attributes `[..., A]` bool, the same in every process: 63 bits of a hash."""
    draw = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**62), 2**62, (sets.shape[-1],), generator=draw)
    return (sets * bits.to(sets.device)).sum(dim=-1)


def same_kind(kinds: Tensor, taken: Tensor, context: Context) -> Rule:
    """Pairs of the same kind match; those that do not take part `[B, K]` are no rows and no columns."""
    row_kind, row_taken = kinds.flatten(), taken.flatten()
    kind, there = context.gather(kinds).flatten(), context.gather(taken).flatten()

    def rule(rows: slice, columns: slice, cosines: Tensor) -> tuple[Tensor, Tensor]:
        valid = there[columns].expand(len(row_taken[rows]), -1)
        same = (row_kind[rows, None] == kind[columns]) & row_taken[rows, None] & valid
        return same.to(cosines.dtype), valid

    return rule
