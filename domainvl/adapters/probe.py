"""Linear probe that starts at the zero-shot classifier (ZS-LP in Silva-Rodríguez et al., CVPR 2024, arXiv 2312.12730).

    image.logits = s f W^T + b        f the normalised image feature, W = zero-shot class features and b = 0 at start

At start it says exactly what the zero-shot model says. Both towers stay as they are, so features can be computed
once, and every tower will do, CNNs included.

Differs from the authors' code: a bias per class, which multi-label data with rare findings needs, and no constraint
that holds W near its start (which is their CLAP).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domainvl.adapters.base import Adapter
from domainvl.features import Features


class LinearProbe(Adapter):
    """One learned row per class in place of the class features.

    Args:
        bias: Learn an offset per class.
    """

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.has_bias = bias
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {"bias": self.has_bias}

    def prime(self, classes: Tensor) -> None:
        """See `Adapter.prime`: makes the parameters, one row for each of `classes` `[C, D]`."""
        self.weight = nn.Parameter(classes.detach().float().clone())
        if self.has_bias:
            self.bias = nn.Parameter(torch.zeros(len(classes), device=classes.device))

    def logits(self, features: Features, scale: Tensor, novel: bool = False) -> Features:
        """See `Adapter.logits`; `text.pooled` is not read."""
        if self.weight is None:
            raise RuntimeError("LinearProbe: prime() with the zero-shot class features comes before scores")
        if novel:
            raise ValueError("LinearProbe knows the classes of its training alone; it cannot score novel ones")
        scores = scale * F.linear(F.normalize(features["image.pooled"].float(), dim=-1), self.weight)
        return {"image.logits": scores if self.bias is None else scores + self.bias}

    def only_known_classes(self) -> bool:
        """See `Adapter.only_known_classes`."""
        return True
