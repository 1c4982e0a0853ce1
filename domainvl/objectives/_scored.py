"""What objectives share that make a score of every image and text themselves, rather than a cosine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from domainvl.features import Batch, Features
from domainvl.objectives.base import Context
from domainvl.objectives.contrast import contrast_logits
from domainvl.objectives.contrast_parts import Contrast, cuts
from domainvl.objectives.targets.base import Pairs, Sides, TargetPolicy, bind

AT_ONCE = 2**24
"""Number of a score's parts that are in memory at once; more are computed again backwards."""


def by_texts(score: Callable[..., Tensor], texts: Sequence[Tensor], each: int) -> Tensor:
    """`score(*texts)`, `[I, T]`, of some texts at a time where all would take too much memory.

    Args:
        score: Scores of all images and the texts that it is given.
        texts: What belongs to every text, `[T, ...]`.
        each: Parts that the scores of one text are made of.
    """
    parts = cuts(len(texts[0]), max(1, AT_ONCE // max(each, 1)))
    # Nothing is kept of a part but its scores.
    spare = torch.is_grad_enabled() and len(parts) > 1
    run = partial(checkpoint, score, use_reentrant=False) if spare else score
    return torch.cat([run(*(text[part] for text in texts)) for part in parts], dim=1)


def one_way(
    scores: Tensor,
    known: Tensor,
    keys: tuple[str, str],
    policies: Sequence[TargetPolicy],
    features: Features,
    batch: Batch,
    context: Context,
) -> Contrast:
    """Rows against columns.

    Args:
        scores: Scaled, of rows here and columns everywhere, `[B, M]`.
        known: Which of them count, `[B, M]` bool.
        keys: Pooled features of rows and of columns, which policies read.
        policies: What counts as a match; none for a row's own column.
        features: Of this step.
        batch: Of this step.
        context: Of this step.
    """
    target = None
    if policies:
        columns = context.gather(features[keys[1]])
        pairs = Pairs(*keys, features[keys[0]], columns, Sides(features, batch, context))
        rule = bind(policies, pairs)
        if rule is not None:
            rows, count = (slice(0, size) for size in scores.shape)
            with torch.no_grad():
                target, valid = rule(rows, count, pairs.rows @ pairs.columns.T)
            known = known & valid
    return contrast_logits(scores, target, known, offset=context.offset, gather=context.gather)
