"""Organs and what a report says of them, organ by organ (fVLM, Shui et al., ICLR 2025, arXiv 2501.14548).

For organ o, over the scans i in which it is and whose report says something of it:

    P_ij = 1 where the texts of i and j are the same, or both say that the organ is normal; rows divided by their sum
    loss = sum over organs of half of CE(s cos(f_io, t_jo), P) and half of CE(s cos(t_io, f_jo), P)

so that two healthy livers are no negatives of each other. An organ of which all texts of the batch say the same teaches
nothing and is left out, which covers the authors' rule that somebody has to be abnormal. An organ that is not in the
field of view is no row and no column. Beside `InfoNCE` on whole images and reports this is local + global alignment.

Not taken: queries that attend to an organ's tokens on four levels, and a projection per organ (`domainvl.organs` pools,
the joint space is used); cutting the sentence about normality off texts that go on; a gather without gradient. The
paper's second step, which corrects false negatives among abnormal pairs, is not in the authors' code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from domainvl.features import Batch, Features
from domainvl.objectives.base import BATCH, Context, Objective
from domainvl.objectives.contrast import both_ways
from domainvl.objectives.contrast_parts import Rule
from domainvl.objectives.targets.base import Pairs, Sides, TargetPolicy, bind, policy_needs
from domainvl.objectives.targets.same_group import SameGroup

_SAID = "said"
"""Under which policies find the number of what a text says."""


class OrganContrast(Objective):
    """Every organ finds what was written about it among all scans that show it, and the other way round.

    Args:
        organs: Names of views of image and text: `image@lungs.pooled` and `text@lungs.pooled`.
        normal: How a text begins that calls an organ normal, `{organ}` standing for its name.
        targets: Further policies of what counts as a match, behind that of equal texts.
        scale: Factor on cosines; null is the model's own (the authors start at 1 / 0.07 and learn it).
        weight: Factor in the weighted sum.
    """

    def __init__(
        self,
        organs: Sequence[str],
        normal: Sequence[str] = ("{organ} shows no significant abnormalities.",),
        targets: Sequence[TargetPolicy] = (),
        scale: float | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        if not organs or len(set(organs)) < len(organs):
            raise ValueError(f"OrganContrast: name at least one organ and each once, got {list(organs)}")
        if scale is not None and scale <= 0:
            raise ValueError(f"OrganContrast: scale must be positive or null, got {scale}")
        self.organs, self.policies, self.scale = list(organs), [SameGroup(_SAID), *targets], scale
        self._normal = {organ: tuple(_plain(start.format(organ=organ)) for start in normal) for organ in organs}

    @property
    def needs(self) -> frozenset[str]:
        """Features of every organ on both sides, whether it is there, and the texts themselves."""
        found: set[str] = set()
        for organ in self.organs:
            image, text = _keys(organ)
            found |= {image, text, f"image@{organ}.mask", f"{BATCH}text@{organ}"}
            found |= policy_needs(self.policies, image, text)
        return frozenset(found - {f"{BATCH}{_SAID}"})

    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The sum over organs, how often the best partner is a match, and how many organs took part."""
        if self.scale is not None:
            context = replace(context, scale=torch.full_like(context.scale.detach(), self.scale))
        # An organ that takes no part keeps its place in the graph, so that every process has the same one.
        losses = [torch.stack([features[key].sum() * 0.0 for organ in self.organs for key in _keys(organ)]).sum()]
        hits = []
        for organ in self.organs:
            image, text = (features[key] for key in _keys(organ))
            numbers = self._numbers(organ, batch[f"text@{organ}"]).to(image.device)
            known = features[f"image@{organ}.mask"] & (numbers >= 0)
            there = context.gather(known)
            if len(context.gather(numbers)[there].unique()) < 2:
                continue
            sides = Sides(features, {**batch, _SAID: numbers}, context)
            rules = [self._rule(keys, sides, known, there) for keys in (_keys(organ), _keys(organ)[::-1])]
            done = both_ways(image, text, context, rules=(rules[0], rules[1]))
            losses.append(done.loss)
            hits.append(done.accuracy)
        accuracy = torch.stack(hits).mean() if hits else losses[0].detach()
        return {
            "loss": torch.stack(losses).sum(),
            "accuracy": accuracy.detach(),
            "organs": torch.tensor(float(len(hits)), device=accuracy.device),
        }

    def _rule(self, keys: tuple[str, str], sides: Sides, rows: Tensor, columns: Tensor) -> Rule:
        """What the policies say, among scans that have the organ: `rows` `[B]` here and `columns` `[M]` everywhere."""
        features = sides.features
        pairs = Pairs(*keys, features[keys[0]], sides.context.gather(features[keys[1]]), sides)
        said = bind(self.policies, pairs)
        if said is None:
            raise RuntimeError("OrganContrast: it always has a policy")

        def rule(row: slice, column: slice, cosines: Tensor) -> tuple[Tensor, Tensor]:
            target, valid = said(row, column, cosines)
            there = rows[row, None] & columns[None, column]
            return target.where(there, 0.0), valid & there

        return rule

    def _numbers(self, organ: str, texts: Sequence[str]) -> Tensor:
        """A number for everything that can be said, 0 for normal, -1 where nothing is said, `[B]`."""
        return torch.tensor([self._number(organ, _plain(text)) for text in texts])

    def _number(self, organ: str, text: str) -> int:
        if not text:
            return -1
        if text.startswith(self._normal[organ]):
            return 0
        # The same in all processes, which Python's own hash is not.
        return 1 + (int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 2)


def _keys(organ: str) -> tuple[str, str]:
    return f"image@{organ}.pooled", f"text@{organ}.pooled"


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
