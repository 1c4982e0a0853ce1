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

from domainvl.adapters._deep import DeepPrompts
from domainvl.adapters.base import Side
from domainvl.backbones.base import Backbone


class MaPLe(DeepPrompts):
    """Prompts in the text blocks, mapped into the image blocks.

    Args:
        tokens: Number of vectors K per block.
        depth: Number of blocks J that get vectors of their own, from the first; None is three quarters of them.
        init: Words whose first K tokens are the start; the others stay. None starts from small random vectors.
    """

    def __init__(self, tokens: int = 2, depth: int | None = None, init: str | None = "a photo of a") -> None:
        super().__init__(tokens, depth, init)

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {"tokens": self.tokens, "depth": self.depth, "init": self.init}

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`."""
        super().attach(backbone)
        image, text = backbone.image, backbone.text
        self.deep = nn.ParameterList(torch.randn(self.tokens, text.width) * 0.02 for _ in range(self._depth - 1))
        # The maps of the deeper blocks start alike, as in the authors' code.
        layer = nn.Linear(text.width, image.width)
        deeper = [copy.deepcopy(layer) for _ in self.deep]
        self.maps = nn.ModuleList([nn.Linear(text.width, image.width), *deeper])
        self.to(backbone.logit_scale.device)

    def vectors(self, side: Side, index: int) -> Tensor:
        """See `DeepPrompts.vectors`."""
        new: Tensor = self.context if index == 0 else self.deep[index - 1]
        return self.maps[index](new) if side == "image" else new
