"""Zero-shot probabilities from embeddings and prompts, with the model's own scale on cosines.

The scale belongs to the model (CLIP learned 100, SigLIP about 117). Leaving it out, as some public code does for
findings, keeps AUROC and moves every probability towards 1/2, so calibration and F1 at 0.5 mean nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from domainvl.evaluation.metrics import Floats


def ensemble(prompts: NDArray[np.floating], owners: Sequence[int], count: int) -> Floats:
    """One feature per class: the mean of its prompts' directions, normalised again, `[count, D]`.

    Args:
        prompts: Embeddings of all prompts, `[R, D]`.
        owners: The class that each prompt stands for, `[R]`.
        count: Number of classes; each needs a prompt.
    """
    rows = np.asarray(owners, dtype=np.int64)
    if rows.shape != (len(prompts),) or not set(rows.tolist()) == set(range(count)):
        raise ValueError(
            f"ensemble: {len(rows)} owners of {len(set(rows.tolist()))} classes for {len(prompts)} prompts; give one "
            f"owner per prompt, and each of the classes 0..{count - 1} at least one prompt"
        )
    total = np.zeros((count, prompts.shape[1]))
    np.add.at(total, rows, _unit(prompts, "prompts"))
    return _unit(total, "mean prompts")


def two_prompt(
    images: NDArray[np.floating], yes: NDArray[np.floating], no: NDArray[np.floating], scale: float
) -> Floats:
    """Multi-label: the softmax over a prompt that affirms and one that denies, `sigmoid(s cos yes - s cos no)`.

    Args:
        images: Embeddings, `[N, D]`, of any length.
        yes: Features of "there is", `[C, D]`.
        no: Features of "there is no", `[C, D]`.
        scale: What the model multiplies cosines by, the exponential of `logit_scale`.

    Returns:
        Probabilities, `[N, C]`.
    """
    if yes.shape != no.shape:
        raise ValueError(f"two_prompt: yes is {yes.shape} and no is {no.shape}; every class needs both")
    margin = _scaled(images, yes, scale) - _scaled(images, no, scale)
    # The one of two forms that cannot overflow.
    small = np.exp(-np.abs(margin))
    return np.asarray(np.where(margin >= 0, 1, small) / (1 + small))


def one_of(images: NDArray[np.floating], classes: NDArray[np.floating], scale: float) -> Floats:
    """Single-label: the softmax over class features `[C, D]`; probabilities `[N, C]`."""
    scores = _scaled(images, classes, scale)
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def _scaled(images: NDArray[np.floating], texts: NDArray[np.floating], scale: float) -> Floats:
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"zero-shot: scale is {scale}; give what the model multiplies cosines by, as 100 for CLIP")
    return np.asarray(scale * (_unit(images, "images") @ _unit(texts, "texts").T))


def _unit(rows: NDArray[np.floating], name: str) -> Floats:
    values = rows.astype(np.float64)
    norms = np.linalg.norm(values, axis=-1, keepdims=True)
    wrong = int(np.count_nonzero(~(norms > 0) | ~np.isfinite(norms)))
    if wrong:
        raise ValueError(f"zero-shot: {wrong} rows of {name} have no direction (NaN, infinite or all zero)")
    return np.asarray(values / norms)
