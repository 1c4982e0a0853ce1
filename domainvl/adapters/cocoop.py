"""CoCoOp: conditional prompt learning (Zhou et al., CVPR 2022, arXiv 2203.05557).

CoOp's context moves with the image: a small net h makes one vector of the image feature and adds it to every context
vector, so that each image has texts of its own,

    pi = h(f / |f|)    h = Linear(D, D / reduction) - ReLU - Linear(D / reduction, width)
    [start] v_1 + pi ... v_M + pi e(name) e(.) [end]

and an image is scored by its own texts. The authors' loss is the cross-entropy of s cos(f, t(f)).

Differs from the authors' code: the texts of all images of a batch run at once; theirs run image by image, and they
train with one image per batch. In multi-label data the negative templates keep their words, as in `CoOp`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domainvl.adapters._towers import require_token_editing
from domainvl.adapters._words import start_from
from domainvl.adapters.base import Adapter, Side
from domainvl.backbones.base import Backbone
from domainvl.features import TextInputs
from domainvl.tokens import TokenState
from domainvl.towers.base import Tower


class CoCoOp(Adapter):
    """A context in front of the class name that depends on the image.

    Args:
        tokens: Number of context vectors M; with `init` the words decide.
        init: Words to start from; None starts from small random vectors.
        reduction: How many times narrower than an image feature the hidden layer is.
    """

    text_per_image = True

    def __init__(self, tokens: int = 4, init: str | None = "a photo of a", reduction: int = 16) -> None:
        super().__init__()
        if tokens < 1 or reduction < 1:
            raise ValueError(f"CoCoOp: tokens and reduction must be positive, got {tokens} and {reduction}")
        if init is not None and not init.strip():
            raise ValueError("CoCoOp: init holds no word; give some ('a photo of a'), or null for random vectors")
        self.tokens, self.init, self.reduction = tokens, init, reduction

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {"tokens": self.tokens, "init": self.init, "reduction": self.reduction}

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`."""
        text, size = backbone.text, backbone.image.out_dim
        require_token_editing("CoCoOp", text)
        if self.init is None:
            start = torch.randn(self.tokens, text.width) * 0.02
        else:
            start = start_from("CoCoOp", backbone, self.init)
        self.context = nn.Parameter(start)
        hidden = max(1, size // self.reduction)
        self.net = nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, text.width))
        self.to(backbone.logit_scale.device)

    def first_block(self, side: Side, tower: Tower) -> int:
        """See `Adapter.first_block`."""
        return 0 if side == "text" else tower.depth

    def prompt(self, template: str, negative: bool = False) -> str:
        """See `Adapter.prompt`: the learned context stands in for the words of a template."""
        return template if negative else "{}."

    def words(self, state: TokenState, inputs: TextInputs) -> TokenState:
        """See `Adapter.words`: the context that no image has moved."""
        return state.insert(self.context, at=state.prefix, name="context")

    def encode_per_image(self, tower: Tower, inputs: TextInputs, image: Tensor) -> Tensor:
        """See `Adapter.encode_per_image`."""
        images, texts = len(image), len(inputs)
        moved = self.context + self.net(F.normalize(image.float(), dim=-1))[:, None]
        context = moved.repeat_interleave(texts, dim=0)

        def words(state: TokenState, inputs: TextInputs) -> TokenState:
            return state.insert(context, at=state.prefix, name="context")

        state = tower.run(tower.embed(inputs.repeat(images), words))
        return self.readout("text", tower, state)["text.pooled"].unflatten(0, (images, texts))
