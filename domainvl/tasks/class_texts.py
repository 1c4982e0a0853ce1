"""Class names as the text tower sees them: one row per prompt, one feature per class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from domainvl.data.prompts import PromptSet
from domainvl.features import TextInputs

Tokenize = Callable[[Sequence[str]], TextInputs]
Rewrite = Callable[[str, bool], str]
"""A template and whether it says that a finding is absent, to the template that is used (`Adapter.prompt`)."""


@dataclass(frozen=True)
class ClassTexts:
    """The prompts of all classes.

    Attributes:
        inputs: All prompts, tokenised, `[R, L]`.
        owner: Which feature each prompt belongs to, `[R]`. Features are the classes; in multi-label data the C
            positive ones are followed by the C negative ones.
        count: Number of features.
    """

    inputs: TextInputs
    owner: Tensor
    count: int

    @classmethod
    def of(
        cls,
        classes: Sequence[str],
        prompts: PromptSet,
        multilabel: bool,
        tokenize: Tokenize,
        rewrite: Rewrite,
    ) -> ClassTexts:
        """Tokenise every prompt of every class."""
        prompts = replace(
            prompts,
            templates=_distinct(rewrite(template, False) for template in prompts.templates),
            negatives=_distinct(rewrite(template, True) for template in prompts.negatives),
        )
        groups = [prompts.texts(name) for name in classes]
        if multilabel:
            groups += [prompts.negative_texts(name) for name in classes]
        for name, group in zip([*classes, *classes], groups, strict=False):
            if not group:
                raise ValueError(
                    f"class {name!r} has no {'negative ' if multilabel else ''}prompt; multi-label zero-shot compares "
                    "a prompt that says yes with one that says no: give `negatives` in the recipe's prompts"
                )
        owner = [index for index, group in enumerate(groups) for _ in group] or [0]
        # Pairs need no classes, but a tokenizer wants a text; `ensemble` drops it again.
        rows = [text for group in groups for text in group] or [""]
        numbers = torch.tensor(owner)
        negative = numbers >= len(classes) if multilabel else None
        return cls(replace(tokenize(rows), owner=numbers, negative=negative), numbers, len(groups))

    def to(self, device: torch.device) -> ClassTexts:
        """The same texts on another device."""
        return ClassTexts(self.inputs.to(device), self.owner.to(device), self.count)

    def ensemble(self, rows: Tensor) -> Tensor:
        """Average the normalised features of a class's prompts: `[..., R, D] -> [..., count, D]`."""
        if self.count in (0, rows.shape[-2]):
            return rows[..., : self.count, :]
        unit = F.normalize(rows.float(), dim=-1)
        total = unit.new_zeros(*unit.shape[:-2], self.count, unit.shape[-1]).index_add(-2, self.owner, unit)
        return total / torch.bincount(self.owner, minlength=self.count)[:, None]


def _distinct(templates: Iterable[str]) -> list[str]:
    """Templates that an adapter has made the same count once."""
    return list(dict.fromkeys(templates))
