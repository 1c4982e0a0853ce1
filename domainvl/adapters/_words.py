"""Texts as tokens: where learned vectors start from, and where the words of a prompt end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from domainvl.backbones.base import Backbone
from domainvl.features import TextInputs
from domainvl.tokens import TokenState


@dataclass(frozen=True)
class Spelling:
    """A text without the special tokens around it.

    Attributes:
        ids: Its token ids, `[M]`.
        vectors: Its word embeddings, `[M, D]`.
        end: The id that stands behind a text here.
    """

    ids: Tensor
    vectors: Tensor
    end: int

    def __len__(self) -> int:
        return len(self.ids)


def spell(backbone: Backbone, text: str) -> Spelling:
    """Look a text up in the backbone's vocabulary."""
    inputs = backbone.tokenize(["", text]).to(backbone.logit_scale.device)
    seen: list[TokenState] = []

    def keep(state: TokenState, inputs: TextInputs) -> TokenState:
        seen.append(state)
        return state

    with torch.no_grad():
        backbone.text.embed(inputs, words=keep)
    first = seen[0].prefix
    # The token behind the start of an empty text is whatever ends a text here.
    end = int(inputs.ids[0, first])
    count = int((inputs.ids[1, first:] == end).int().argmax())
    vectors = seen[0].tokens[1, first : first + count].detach().float().clone()
    return Spelling(inputs.ids[1, first : first + count], vectors, end)


def start_from(method: str, backbone: Backbone, init: str) -> Tensor:
    """The word embeddings of all of `init`, `[M, D]`."""
    vectors = spell(backbone, init).vectors
    if not len(vectors):
        raise ValueError(f"{method}: the tokenizer of {backbone.spec().name!r} makes no token of init={init!r}")
    return vectors


def start_of(method: str, backbone: Backbone, init: str | None, tokens: int) -> Tensor:
    """Word embeddings of the first tokens of `init`, or small random vectors without it, `[tokens, D]`."""
    if init is None:
        return torch.randn(tokens, backbone.text.width) * 0.02
    vectors = start_from(method, backbone, init)
    if len(vectors) < tokens:
        raise ValueError(
            f"{method}: init={init!r} is {len(vectors)} tokens here, fewer than tokens={tokens}; give more words, or "
            "null for random vectors"
        )
    return vectors[:tokens]


def begin_with(init: str | None, template: str, negative: bool) -> str:
    """A template that starts with the words of `init`; the name alone follows them, or all of a negative template."""
    rest = template if negative else "{}."
    return rest if init is None else f"{init} {rest}"


def learned(state: TokenState, context: Tensor, init: str | None, name: str) -> TokenState:
    """Put learned vectors `[K, D]` behind the start: in the place of the first tokens of `init` where there is one."""
    if init is None:
        return state.insert(context, at=state.prefix, name=name)
    return state.mark(state.prefix, len(context), name).overwrite(context, name)


def words_end(ids: Tensor, prefix: int, end: int, dot: Tensor) -> Tensor:
    """Where the words of every row `[R, L]` end: in front of the end of text and of a full stop, `[R]`."""
    stops = (ids == end) & (torch.arange(ids.shape[1], device=ids.device) >= prefix)
    last = torch.where(stops.any(dim=1), stops.int().argmax(dim=1), ids.shape[1])
    if not len(dot):
        return last
    behind = (last - len(dot)).clamp_min(prefix)
    places = behind[:, None] + torch.arange(len(dot), device=ids.device)
    stopped = (ids.gather(1, places.clamp_max(ids.shape[1] - 1)) == dot).all(dim=1)
    return torch.where(stopped, behind, last)
