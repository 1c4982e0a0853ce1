"""Crane's prompts (Salehi et al., 2025, arXiv 2504.11055): what is normal and what is damaged, told of each image.

M learned vectors stand in front of every text, one set for texts that name a damage and one for texts that deny it, and
what the image tower made of the image joins them as one more token. With f the image feature and e the word embeddings,

    damaged  [start] v_1 ... v_M f/|f| e(damaged) e(object) e(.) [end]
    normal   [start] u_1 ... u_M f/|f| e(object) e(.) [end]

and in front of blocks 1 to J - 1 (counted from 0) new vectors P_i, K of them, take the place of the first K behind the
start; from block J on they flow through. An image is scored by its own texts: s cos(f, t(f)), cross-entropy.

These are the prompts alone. What the authors put into the image tower for maps (attention of patches to like ones, a
second model's similarities, pooling by anomaly score) and the losses on masks are no part of it; the class feature
that they read is that of the untouched tower.

Differs from the authors' code, where a text is as wide as a feature: where it is not, one linear layer, learned, maps
f; J defaults to three quarters of the text tower (their 9 of 12); prompts stay fp32. The words of a text are those of
the prompt set: the authors' are the template `damaged {}.`, the negative `{}.` and the class `object`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domainvl.adapters._towers import prompt_depth, require_token_editing
from domainvl.adapters.base import Adapter, Side
from domainvl.backbones.base import Backbone
from domainvl.features import TextInputs
from domainvl.tokens import TokenState
from domainvl.towers.base import Tower

_CONTEXT, _DEEP = "crane", "crane_deep"


class Crane(Adapter):
    """A context for normal and one for damaged, with the image in it; for findings that an image has or has not.

    Args:
        tokens: Number of vectors M in each context.
        deep_tokens: How many of them, K, are new in front of the next blocks.
        depth: Number of blocks J that get vectors of their own, from the first; None is three quarters of them.
    """

    text_per_image = True

    def __init__(self, tokens: int = 12, deep_tokens: int = 4, depth: int | None = None) -> None:
        super().__init__()
        if not 1 <= deep_tokens <= tokens:
            raise ValueError(
                f"Crane: tokens must be positive and deep_tokens lie in 1..tokens, got {tokens} and {deep_tokens}"
            )
        if depth is not None and depth < 1:
            raise ValueError(f"Crane: depth must be positive, got {depth}")
        self.tokens, self.deep_tokens, self.depth = tokens, deep_tokens, depth

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {"tokens": self.tokens, "deep_tokens": self.deep_tokens, "depth": self.depth}

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`."""
        text, size = backbone.text, backbone.image.out_dim
        require_token_editing("Crane", text)
        depth = prompt_depth("Crane", self.depth, text)
        self.damaged = nn.Parameter(torch.randn(self.tokens, text.width) * 0.02)
        self.normal = nn.Parameter(torch.randn(self.tokens, text.width) * 0.02)
        self.deep = nn.ParameterList(torch.randn(self.deep_tokens, text.width) * 0.02 for _ in range(depth - 1))
        self.map = nn.Identity() if size == text.width else nn.Linear(size, text.width, bias=False)
        self.to(backbone.logit_scale.device)

    def first_block(self, side: Side, tower: Tower) -> int:
        """See `Adapter.first_block`."""
        return 0 if side == "text" else tower.depth

    def words(self, state: TokenState, inputs: TextInputs) -> TokenState:
        """See `Adapter.words`: the contexts without an image."""
        return self._begin(state, self._contexts(inputs))

    def edit(self, side: Side, index: int, state: TokenState) -> TokenState:
        """See `Adapter.edit`."""
        if side == "image" or not 0 < index <= len(self.deep):
            return state
        return state.overwrite(self.deep[index - 1], name=_DEEP)

    def encode_per_image(self, tower: Tower, inputs: TextInputs, image: Tensor) -> Tensor:
        """See `Adapter.encode_per_image`."""
        images, texts = len(image), len(inputs)
        seen = self.map(F.normalize(image.float(), dim=-1)).repeat_interleave(texts, dim=0)

        def words(state: TokenState, inputs: TextInputs) -> TokenState:
            return self._begin(state, torch.cat([self._contexts(inputs), seen[:, None]], dim=1))

        def edit(index: int, state: TokenState) -> TokenState:
            return self.edit("text", index, state)

        state = tower.run(tower.embed(inputs.repeat(images), words), edit)
        return self.readout("text", tower, state)["text.pooled"].unflatten(0, (images, texts))

    def _contexts(self, inputs: TextInputs) -> Tensor:
        """The context of every text, `[N, M, width]`."""
        if inputs.negative is None:
            raise ValueError(
                "Crane: it learns one context for texts that name a finding and one for texts that deny it, and these "
                "classes exclude each other; use multi-label data, or CoCoOp"
            )
        return torch.stack([self.damaged, self.normal])[inputs.negative.long()]

    def _begin(self, state: TokenState, new: Tensor) -> TokenState:
        """Put `new` behind the start; its first K vectors are those that blocks replace."""
        state = state.insert(new[:, self.deep_tokens :], at=state.prefix, name=_CONTEXT)
        return state.insert(new[:, : self.deep_tokens], at=state.prefix, name=_DEEP)
