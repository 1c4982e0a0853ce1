"""MMRL: multi-modal representation learning (Guo and Gu, CVPR 2025, arXiv 2503.08497).

A shared space of K vectors R `[K, d_r]` is mapped into both towers by one linear layer per block and side. In
front of block J the mapped vectors join the sequence, behind the start or class token; in front of every
later block they replace what the block below made of them. With x the image tokens after the last block:

    f   = project(pool(x))                          class feature, all of it frozen
    f_r = mean_k norm(x_k) @ P_r                    representation feature, k over the inserted tokens
    l   = s cos(f, t)    l_r = s cos(f_r, t)        image@class.logits, image@rep.logits
    image.logits = alpha l + (1 - alpha) l_r        on classes of the training; l alone on novel ones

The authors' loss: alpha CE(l) + (1 - alpha) CE(l_r) + lambda (1 - cos(f, f_0)) + lambda (1 - cos(t, t_0)),
where f_0 and t_0 come from the untouched model.

Differs from the authors' code: s is the backbone's own factor unless `scale` is given (theirs is 100 whatever
the model learned, which is wrong for SigLIP and for BiomedCLIP); J defaults to the same share of the depth as
their 6 of 12, so that towers of any depth work; blocks count from 0.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any, cast

import torch
from torch import Tensor, nn

from domainvl.adapters._scores import cosine_logits
from domainvl.adapters._towers import require_block, require_token_editing
from domainvl.adapters.base import Adapter, Side
from domainvl.backbones.base import Backbone
from domainvl.features import Features
from domainvl.tokens import TokenState
from domainvl.towers.base import Tower

SPAN = "mmrl"


class MMRL(Adapter):
    """Representation tokens in both towers and a second, learned head on the image side.

    Args:
        tokens: Number of representation tokens K.
        width: Size d_r of the shared space (the authors take 2048 for EuroSAT).
        first_block: First block that sees the tokens, from 0, in both towers; None takes 5/12 of the
            depth of each.
        alpha: Share of the class head in the fused scores.
        scale: Factor on cosines; None takes the backbone's own.
    """

    def __init__(
        self,
        tokens: int = 5,
        width: int = 512,
        first_block: int | None = None,
        alpha: float = 0.7,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        if tokens < 1 or width < 1:
            raise ValueError(f"{type(self).__name__}: tokens and width must be positive, got {tokens} and {width}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"{type(self).__name__}: alpha must lie in 0..1, got {alpha}")
        if scale is not None and scale <= 0:
            raise ValueError(f"{type(self).__name__}: scale must be positive or null, got {scale}")
        self.tokens, self.width, self.alpha, self.scale = tokens, width, alpha, scale
        self._first = first_block

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {
            "tokens": self.tokens,
            "width": self.width,
            "first_block": self._first,
            "alpha": self.alpha,
            "scale": self.scale,
        }

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`."""
        image, text = backbone.image, backbone.text
        require_token_editing(type(self).__name__, image, text)
        self._start = {"image": self.first_block("image", image), "text": self.first_block("text", text)}
        self.space = nn.Parameter(torch.randn(self.tokens, self.width) * 0.02)
        self.maps = nn.ModuleDict({"image": self._maps("image", image), "text": self._maps("text", text)})
        self._make_head(image)
        self.to(backbone.logit_scale.device)

    def _make_head(self, image: Tower) -> None:
        self.head = nn.Parameter(torch.randn(image.width, image.out_dim) * image.width**-0.5)

    def _maps(self, side: Side, tower: Tower) -> nn.Module:
        # All maps of a side start as the same map, as in the authors' code.
        layer = nn.Linear(self.width, tower.width)
        count = tower.depth - self.first_block(side, tower)
        return nn.ModuleList(copy.deepcopy(layer) for _ in range(count))

    def first_block(self, side: Side, tower: Tower) -> int:
        """See `Adapter.first_block`."""
        first = tower.depth * 5 // 12 if self._first is None else self._first
        return require_block(type(self).__name__, first, side, tower)

    def edit(self, side: Side, index: int, state: TokenState) -> TokenState:
        """See `Adapter.edit`."""
        step = index - self._start[side]
        if step < 0:
            return state
        new = self._mapped(side, step)
        if step == 0:
            return state.insert(new, at=state.prefix, name=SPAN)
        return self._renewed(state, new)

    def _mapped(self, side: Side, step: int) -> Tensor:
        """The shared space as the tokens of the `step`-th edited block, `[K, width of the tower]`."""
        return cast(nn.ModuleList, self.maps[side])[step](self.space)

    def _renewed(self, state: TokenState, new: Tensor) -> TokenState:
        """What enters a block above the first edited one."""
        return state.overwrite(new, name=SPAN)

    def _represent(self, tower: Tower, mean: Tensor) -> Tensor:
        """The representation feature from the mean of the normalised tokens, `[B, width] -> [B, D]`."""
        return mean @ self.head

    def reads(self, side: Side) -> Collection[str]:
        """See `Adapter.reads`."""
        return (SPAN,) if side == "image" else ()

    def same_rows(self) -> bool:
        """See `Adapter.same_rows`."""
        return True

    def readout(self, side: Side, tower: Tower, state: TokenState) -> Features:
        """See `Adapter.readout`; adds `image@rep.pooled` `[B, D]`."""
        features = super().readout(side, tower, state)
        if side == "image":
            mean = state.whole(tower.norm(state.take(SPAN)).mean(dim=1))
            features["image@rep.pooled"] = self._represent(tower, mean)
        return features

    def logits(self, features: Features, scale: Tensor, novel: bool = False) -> Features:
        """See `Adapter.logits`; adds the scores of both heads."""
        factor: Tensor | float = scale if self.scale is None else self.scale
        text = features["text.pooled"]
        known = cosine_logits(features["image.pooled"], text, factor)
        learned = cosine_logits(features["image@rep.pooled"], text, factor)
        fused = known if novel else self.alpha * known + (1 - self.alpha) * learned
        return {"image.logits": fused, "image@class.logits": known, "image@rep.logits": learned}
