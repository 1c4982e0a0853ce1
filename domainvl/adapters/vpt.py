"""VPT: visual prompt tuning (Jia et al., ECCV 2022, arXiv 2203.12119), as CLIP's prompt learners baseline it.

K learned vectors join the image tokens behind the patches, where positions have been added already and the layer norm
in front of the first block has not been applied yet:

    x_0 = norm([class, patches] + positions, P_1)         shallow: P_1 alone, carried on from block to block
    x_i[last K] = P_i  in front of block i                deep: new vectors in front of the first `depth` blocks

Texts are those of the untouched model. The authors' loss is the cross-entropy of s cos(f, t).

The code that parity is proven against is `trainers/vpt.py` of MaPLe's authors. Differs from it: texts are the prompt
set's (theirs are "a photo of a {}." for every data set); the layer norm is whatever the tower has there, which is
nothing outside CLIP; towers that average or attend over patches leave the learned tokens out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from domainvl.adapters._towers import require_token_editing
from domainvl.adapters.base import Adapter, Side
from domainvl.backbones.base import Backbone
from domainvl.tokens import TokenState
from domainvl.towers.base import Tower

_SPAN = "vpt"


class VPT(Adapter):
    """Learned tokens behind the patches of an image.

    Args:
        tokens: Number of tokens K per block.
        depth: Number of blocks that get tokens of their own, from the first: 1 is shallow, None is all (deep).
    """

    def __init__(self, tokens: int = 8, depth: int | None = None) -> None:
        super().__init__()
        if tokens < 1 or (depth is not None and depth < 1):
            raise ValueError(f"VPT: tokens and depth must be positive, got {tokens} and {depth}")
        self.tokens, self.depth = tokens, depth

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {"tokens": self.tokens, "depth": self.depth}

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`."""
        tower = backbone.image
        require_token_editing("VPT", tower)
        depth = tower.depth if self.depth is None else self.depth
        if depth > tower.depth:
            raise ValueError(f"VPT: depth must lie in 1..{tower.depth} for {type(tower).__name__}, got {depth}")
        self._enter = tower.enter
        self.prompts = nn.Parameter(torch.randn(depth, self.tokens, tower.width) * 0.02)
        self.to(backbone.logit_scale.device)

    def first_block(self, side: Side, tower: Tower) -> int:
        """See `Adapter.first_block`."""
        return 0 if side == "image" else tower.depth

    def edit(self, side: Side, index: int, state: TokenState) -> TokenState:
        """See `Adapter.edit`."""
        if side == "text" or index >= len(self.prompts):
            return state
        if index == 0:
            return state.insert(self._enter(self.prompts[0]), at=state.length, name=_SPAN)
        return state.overwrite(self.prompts[index], name=_SPAN)

    def same_rows(self) -> bool:
        """See `Adapter.same_rows`: no text is touched."""
        return True
