"""CoOp: context optimization (Zhou et al., IJCV 2022, arXiv 2109.01134).

M learned vectors take the place of the words around a class name. With e the frozen word embeddings, a row reads

    [start] v_1 ... v_M e(name) e(.) [end] + positions

and everything behind it is the frozen text tower. The authors' loss is the cross-entropy of s cos(f, t).

Differs from the authors' code: one context for all classes, in front of the name (class-specific contexts and
other places are not offered here). Rows are cut after the longest one, so no padding is computed. In multi-label
data, which CoOp does not know, the negative templates keep their words behind the learned context: the name alone
could not say that a finding is absent.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from domainvl.adapters.base import Adapter, Side, require_token_editing
from domainvl.backbones.base import Backbone
from domainvl.features import TextInputs
from domainvl.tokens import TokenState
from domainvl.towers.base import Tower


class CoOp(Adapter):
    """Learned context vectors in front of the class name.

    Args:
        tokens: Number of context vectors M; with `init` the words decide.
        init: Words to start from (`a photo of a`); None starts from small random vectors.
    """

    def __init__(self, tokens: int = 16, init: str | None = None) -> None:
        super().__init__()
        if tokens < 1:
            raise ValueError(f"CoOp: tokens must be positive, got {tokens}")
        if init is not None and not init.strip():
            raise ValueError("CoOp: init holds no word; give some ('a photo of a'), or null for random vectors")
        self.tokens, self.init = tokens, init

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {"tokens": self.tokens, "init": self.init}

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`."""
        require_token_editing("CoOp", backbone.text)
        if self.init is None:
            start = torch.randn(self.tokens, backbone.text.width) * 0.02
        else:
            start = _embeddings(backbone, self.init)
        self.context = nn.Parameter(start.to(backbone.logit_scale.device))

    def first_block(self, side: Side, tower: Tower) -> int:
        """See `Adapter.first_block`."""
        return 0 if side == "text" else tower.depth

    def prompt(self, template: str, negative: bool = False) -> str:
        """See `Adapter.prompt`: the learned context stands in for the words of a template."""
        return template if negative else "{}."

    def words(self, state: TokenState, inputs: TextInputs) -> TokenState:
        """See `Adapter.words`."""
        return state.insert(self.context, at=state.prefix, name="context")


def _embeddings(backbone: Backbone, words: str) -> Tensor:
    """Word embeddings of a text without the start and end tokens, `[M, D]`."""
    inputs = backbone.tokenize(["", words]).to(backbone.logit_scale.device)
    seen: list[TokenState] = []

    def keep(state: TokenState, inputs: TextInputs) -> TokenState:
        seen.append(state)
        return state

    with torch.no_grad():
        backbone.text.embed(inputs, words=keep)
    first = seen[0].prefix
    # The token behind the start of an empty text is whatever ends a text here.
    count = int((inputs.ids[1, first:] == inputs.ids[0, first]).int().argmax())
    if count == 0:
        raise ValueError(f"CoOp: the tokenizer of {backbone.spec().name!r} makes no token of init={words!r}")
    return seen[0].tokens[1, first : first + count].detach().float().clone()
