"""CoOp: context optimization (Zhou et al., IJCV 2022, arXiv 2109.01134).

M learned vectors take the place of the words around a class name. With e the frozen word embeddings, a row reads

    [start] v_1 ... v_M e(name) e(.) [end]                    position: end
    [start] v_1 ... v_M/2 e(name) v_M/2+1 ... v_M e(.) [end]  position: middle
    [start] e(name) v_1 ... v_M e(.) [end]                    position: front

plus positions, and everything behind is the frozen text tower. The authors' loss is the cross-entropy of s cos(f, t).
KgCoOp (Yao et al., CVPR 2023, arXiv 2303.13283) is CoOp from the words "a photo of a" with `FrozenCosine` of the texts
beside it, weight 8. BiomedCoOp (Koleilat et al., CVPR 2025, arXiv 2411.15232) is the same with `SCCM` and `KDSP`.

Differs from the authors' code: rows are cut after the longest one, so no padding is computed; class-specific contexts
can start from words too. In multi-label data, which CoOp does not know, the negative templates keep their words behind
the learned context: the name alone could not say that a finding is absent.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from domainvl.adapters._towers import require_token_editing
from domainvl.adapters._words import spell, start_from, words_end
from domainvl.adapters.base import Adapter, Side
from domainvl.backbones.base import Backbone
from domainvl.features import TextInputs
from domainvl.tokens import TokenState
from domainvl.towers.base import Tower

NamePosition = Literal["end", "middle", "front"]


class CoOp(Adapter):
    """Learned context vectors around the class name.

    Args:
        tokens: Number of context vectors M; with `init` the words decide.
        init: Words to start from (`a photo of a`); None starts from small random vectors.
        class_specific: Give every class a context of its own; novel classes cannot be scored then.
        position: Where the name stands: at the end of the context, in its middle or in front of it.
    """

    context: nn.Parameter

    def __init__(
        self,
        tokens: int = 16,
        init: str | None = None,
        class_specific: bool = False,
        position: NamePosition = "end",
    ) -> None:
        super().__init__()
        if tokens < 1:
            raise ValueError(f"CoOp: tokens must be positive, got {tokens}")
        if init is not None and not init.strip():
            raise ValueError("CoOp: init holds no word; give some ('a photo of a'), or null for random vectors")
        if position not in get_args(NamePosition):
            raise ValueError(f"CoOp: position {position!r} is not one of {', '.join(get_args(NamePosition))}")
        self.tokens, self.init, self.class_specific, self.position = tokens, init, class_specific, position

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {
            "tokens": self.tokens,
            "init": self.init,
            "class_specific": self.class_specific,
            "position": self.position,
        }

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`."""
        require_token_editing("CoOp", backbone.text)
        dot = spell(backbone, ".")
        self._dot, self._end = dot.ids, dot.end
        if self.init is None:
            start = torch.randn(self.tokens, backbone.text.width) * 0.02
        else:
            start = start_from("CoOp", backbone, self.init)
        self.context = nn.Parameter(start.to(backbone.logit_scale.device))

    def prime(self, classes: Tensor) -> None:
        """See `Adapter.prime`."""
        if self.class_specific:
            start = self.context.detach()
            shape = (len(classes), *start.shape)
            own = start.expand(shape).clone() if self.init is not None else torch.randn(shape).to(start) * 0.02
            self.context = nn.Parameter(own)

    def first_block(self, side: Side, tower: Tower) -> int:
        """See `Adapter.first_block`."""
        return 0 if side == "text" else tower.depth

    def prompt(self, template: str, negative: bool = False) -> str:
        """See `Adapter.prompt`: the learned context stands in for the words of a template."""
        return template if negative else "{}."

    def words(self, state: TokenState, inputs: TextInputs) -> TokenState:
        """See `Adapter.words`."""
        context: Tensor = self.context
        if self.class_specific:
            if inputs.owner is None or int(inputs.owner.max()) >= len(context):
                raise ValueError(
                    f"CoOp: {len(context)} class-specific contexts need texts that say which of these classes they are "
                    "of; novel classes need class_specific: false"
                )
            context = context[inputs.owner]
        if self.position == "end":
            return state.insert(context, at=state.prefix, name="context")
        behind = words_end(inputs.ids, state.prefix, self._end, self._dot.to(inputs.ids.device))
        if self.position == "front":
            return state.scatter(context, behind)
        half = context.shape[-2] // 2
        state = state.scatter(context[..., half:, :], behind)
        return state.insert(context[..., :half, :], at=state.prefix, name="context")

    def only_known_classes(self) -> bool:
        """See `Adapter.only_known_classes`."""
        return self.class_specific
