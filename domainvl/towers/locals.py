"""Local features: the tokens of a finished state that stand for content, and words made of word pieces."""

from __future__ import annotations

from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from domainvl.tokens import TokenState

Reduce = Literal["mean", "sum"]


def own_tokens(state: TokenState) -> tuple[Tensor, Tensor]:
    """Tokens of a finished state that are its own, and which of them are real.

    Inserted and special tokens are left out: of an image the patches come back, `[B, H W, D]`; of a text as many
    columns as its ids have, `[B, L, D]`, where the mask is False at start, end and padding.
    """
    state = state.original()
    if state.content is not None:
        content, length = state.content, state.content.shape[1]
        # A class token behind the text is cut; padding that made room for inserted tokens comes back.
        tokens = F.pad(state.tokens[:, :length], (0, 0, 0, max(0, length - state.length)))
        return tokens, content
    if state.grid is not None and state.length - state.prefix == prod(state.grid):
        tokens = state.tokens[:, state.prefix :]
        return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    raise RuntimeError(
        "own_tokens: this state does not hold all tokens of its image or text (it was run for what is pooled), or "
        "learned vectors stand among the words of its text; run it with reads=None, and leave texts unedited"
    )


def pool_words(
    tokens: Tensor, words: Tensor, sentences: Tensor, reduce: Reduce = "mean"
) -> tuple[Tensor, Tensor, Tensor]:
    """Words from their pieces: features, which are real, and the sentence of each.

    Args:
        tokens: Local features of texts, `[B, L, D]`.
        words: Number of the word that a token belongs to, `[B, L]`; -1 for none (`TextInputs.words`).
        sentences: Number of the sentence that a token belongs to, `[B, L]`; -1 for none.
        reduce: Mean of the pieces of a word, or their sum (GLoRIA, MGCA).

    Returns:
        Word features `[B, W, D]`, mask `[B, W]`, sentences `[B, W]` (-1 where there is no word). Column w is word w,
        and W is that of the text with most words, at least 1.
    """
    if tokens.shape[:2] != words.shape or words.shape != sentences.shape:
        raise ValueError(
            f"pool_words: tokens {tuple(tokens.shape)}, words {tuple(words.shape)} and sentences "
            f"{tuple(sentences.shape)} should agree in their first two sizes"
        )
    if reduce not in ("mean", "sum"):
        raise ValueError(f"pool_words: reduce {reduce!r} is not one of mean, sum")
    count = max(int(words.max()) + 1, 1) if words.numel() else 1
    # Tokens of no word go to a column of their own, which is cut.
    index = torch.where(words < 0, count, words)
    total = tokens.new_zeros(tokens.shape[0], count + 1, tokens.shape[2])
    total = total.scatter_add(1, index[..., None].expand_as(tokens), tokens)[:, :count]
    pieces = tokens.new_zeros(tokens.shape[0], count + 1)
    pieces = pieces.scatter_add(1, index, torch.ones_like(index, dtype=tokens.dtype))[:, :count]
    if reduce == "mean":
        total = total / pieces.clamp_min(1)[..., None]
    spoken = sentences.new_full((tokens.shape[0], count + 1), -1).scatter_reduce(1, index, sentences, "amax")
    return total, pieces > 0, spoken[:, :count]
