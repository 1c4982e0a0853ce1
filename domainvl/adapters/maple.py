"""MaPLe: multi-modal prompt learning (Khattak et al., CVPR 2023, arXiv 2210.03117).

K learned vectors stand in the text for the first words of "a photo of a", new ones replace them in front of each of the
next blocks, and one linear layer per block maps them to the image tower, where they join behind the patches. With P_0
the words, P_1 ... P_J-1 those of blocks 1 to J - 1 (counted from 0), and maps F_i from text to image width:

    text    [start] P_0 e(of) e(a) e(name) e(.) [end];  P_i takes the place of these K in front of block i
    image   norm([class, patches] + positions, F_0 P_0);  F_i P_i takes the place of the last K in front of block i

From block J on they flow through. The authors' loss is the cross-entropy of s cos(f, t).

Differs from the authors' code, which knows widths 512 and 768 alone and crashes in fp32: any pair of towers; J defaults
to three quarters of the shallower one (their 9 of 12); the layer norm is whatever the image tower has there; towers
that average or attend over patches leave the prompts out. In multi-label data the negative templates keep their words.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from domainvl.adapters._towers import prompt_depth, require_token_editing
from domainvl.adapters._words import begin_with, learned, start_of
from domainvl.adapters.base import Adapter, Side
from domainvl.backbones.base import Backbone
from domainvl.features import TextInputs
from domainvl.tokens import TokenState
from domainvl.towers.base import Tower

_SPAN = "maple"


class MaPLe(Adapter):
    """Prompts in the text blocks, mapped into the image blocks.

    Args:
        tokens: Number of vectors K per block.
        depth: Number of blocks J that get vectors of their own, from the first; None is three quarters of them.
        init: Words whose first K tokens are the start; the others stay. None starts from small random vectors.
    """

    def __init__(self, tokens: int = 2, depth: int | None = None, init: str | None = "a photo of a") -> None:
        super().__init__()
        if tokens < 1 or (depth is not None and depth < 1):
            raise ValueError(f"MaPLe: tokens and depth must be positive, got {tokens} and {depth}")
        self.tokens, self.depth, self.init = tokens, depth, init

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {"tokens": self.tokens, "depth": self.depth, "init": self.init}

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`."""
        image, text = backbone.image, backbone.text
        require_token_editing("MaPLe", image, text)
        self._depth = prompt_depth("MaPLe", self.depth, image, text)
        start = start_of("MaPLe", backbone, self.init, self.tokens)
        self._enter = image.enter
        self.context = nn.Parameter(start)
        self.deep = nn.ParameterList(torch.randn(self.tokens, text.width) * 0.02 for _ in range(self._depth - 1))
        # The maps of the deeper blocks start alike, as in the authors' code.
        layer = nn.Linear(text.width, image.width)
        deeper = [copy.deepcopy(layer) for _ in self.deep]
        self.maps = nn.ModuleList([nn.Linear(text.width, image.width), *deeper])
        self.to(backbone.logit_scale.device)

    def first_block(self, side: Side, tower: Tower) -> int:
        """See `Adapter.first_block`."""
        return 0

    def prompt(self, template: str, negative: bool = False) -> str:
        """See `Adapter.prompt`: the words of `init`, the first of which are learned."""
        return begin_with(self.init, template, negative)

    def words(self, state: TokenState, inputs: TextInputs) -> TokenState:
        """See `Adapter.words`."""
        return learned(state, self.context, self.init, _SPAN)

    def edit(self, side: Side, index: int, state: TokenState) -> TokenState:
        """See `Adapter.edit`."""
        if index >= self._depth:
            return state
        new: Tensor = self.context if index == 0 else self.deep[index - 1]
        if side == "image":
            new = self.maps[index](new)
        if index > 0:
            return state.overwrite(new, name=_SPAN)
        return state if side == "text" else state.insert(self._enter(new), at=state.length, name=_SPAN)

    def same_rows(self) -> bool:
        """See `Adapter.same_rows`: every text gets the same vectors, behind its start."""
        return True
