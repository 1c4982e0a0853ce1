"""Learned vectors in front of the first blocks of both towers, as MaPLe and PromptSRC have them.

    text    [start] P_0 e(name) e(.) [end], where P_0 stand for the first words of a template
    image   norm([class, patches] + positions, Q_0)

and in front of block i < J new vectors P_i and Q_i take the place of these; from block J on they flow through.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from domainvl.adapters._towers import prompt_depth, require_token_editing
from domainvl.adapters._words import begin_with, learned, start_of
from domainvl.adapters.base import Adapter, Side
from domainvl.backbones.base import Backbone
from domainvl.features import TextInputs
from domainvl.tokens import TokenState
from domainvl.towers.base import Tower

_SPAN = "deep"


class DeepPrompts(Adapter):
    """Base of methods whose vectors stand in both towers.

    Args:
        tokens: Number of vectors K per block and tower.
        depth: Number of blocks J that get vectors of their own, from the first; None is three quarters of them.
        init: Words whose first K tokens are the start of the text; the others stay. None starts from small random ones.
    """

    context: nn.Parameter

    def __init__(self, tokens: int, depth: int | None, init: str | None) -> None:
        super().__init__()
        if tokens < 1 or (depth is not None and depth < 1):
            raise ValueError(f"{type(self).__name__}: tokens and depth must be positive, got {tokens} and {depth}")
        self.tokens, self.depth, self.init = tokens, depth, init

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`: makes P_0; methods make the others."""
        name, image, text = type(self).__name__, backbone.image, backbone.text
        require_token_editing(name, image, text)
        self._depth = prompt_depth(name, self.depth, image, text)
        self._enter = image.enter
        self.context = nn.Parameter(start_of(name, backbone, self.init, self.tokens))

    @abstractmethod
    def vectors(self, side: Side, index: int) -> Tensor:
        """The vectors of block `index`, `[K, width]`: P_i or Q_i."""

    def first_block(self, side: Side, tower: Tower) -> int:
        """See `Adapter.first_block`."""
        return 0

    def prompt(self, template: str, negative: bool = False) -> str:
        """See `Adapter.prompt`: the words of `init`, the first of which are learned."""
        return begin_with(self.init, template, negative)

    def words(self, state: TokenState, inputs: TextInputs) -> TokenState:
        """See `Adapter.words`."""
        return learned(state, self.vectors("text", 0), self.init, _SPAN)

    def edit(self, side: Side, index: int, state: TokenState) -> TokenState:
        """See `Adapter.edit`."""
        if index >= self._depth or (side == "text" and index == 0):
            return state
        new = self.vectors(side, index)
        if index > 0:
            return state.overwrite(new, name=_SPAN)
        return state.insert(self._enter(new), at=state.length, name=_SPAN)

    def same_rows(self) -> bool:
        """See `Adapter.same_rows`: every text gets the same vectors, behind its start."""
        return True
