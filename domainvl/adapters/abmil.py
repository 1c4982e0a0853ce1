"""ABMIL: attention over the tiles of a slide (Ilse et al., ICML 2018, arXiv 1802.04712).

With x_i the feature of tile i, in front of the model's projection:

    h_i = ReLU(W x_i)      a = softmax_i w (tanh(V h_i) * sigmoid(U h_i))      image.logits = C sum_i a_i h_i

This is also the network of CLAM-SB; CLAM's loss on single tiles is the objective `ClamInstances`.

Differs from the authors' code: several slides at once, shorter ones filled up and masked; one linear score per class in
place of a sigmoid; dropout as in CLAM.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from domainvl.adapters._bags import TileAttention, of_bag, shares
from domainvl.adapters.base import Adapter
from domainvl.backbones.base import Backbone
from domainvl.features import Features


class ABMIL(Adapter):
    """Attention pooling of a slide's tiles, and a linear classifier.

    Args:
        hidden: Size of h.
        width: Size of the attention's hidden layers.
        dropout: Behind h and the attention's hidden layers.
        gated: Whether the attention has its second factor.
        deep: Read tiles in front of the model's projection; False reads them in the joint space.
    """

    def __init__(
        self, hidden: int = 512, width: int = 256, dropout: float = 0.25, gated: bool = True, deep: bool = True
    ) -> None:
        super().__init__()
        if hidden < 1 or width < 1:
            raise ValueError(f"{type(self).__name__}: hidden and width must be positive, got {hidden} and {width}")
        if not 0 <= dropout < 1:
            raise ValueError(f"{type(self).__name__}: dropout must lie in 0..1 (1 excluded), got {dropout}")
        self.hidden, self.width, self.gated, self.deep = hidden, width, gated, deep
        self.dropout = nn.Dropout(dropout)

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {
            "hidden": self.hidden,
            "width": self.width,
            "dropout": self.dropout.p,
            "gated": self.gated,
            "deep": self.deep,
        }

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`; what has a size per class is made in `prime`."""
        size = backbone.image.pooled_width if self.deep else backbone.image.out_dim
        self.embedding = nn.Linear(size, self.hidden).to(backbone.logit_scale.device)

    def prime(self, classes: Tensor) -> None:
        """See `Adapter.prime`; only the number of classes is read."""
        self.attention = TileAttention(
            self.hidden, self.width, self._branches(len(classes)), self.gated, self.dropout.p
        )
        self.classifier = nn.Linear(self.hidden, len(classes))
        self.to(classes.device)

    def _branches(self, classes: int) -> int:
        return 1

    def pool_tiles(self, bag: Features) -> Features:
        """See `Adapter.pool_tiles`; scores of attention are those in front of the softmax."""
        tiles = torch.relu(self.embedding(bag["image@deep.tokens" if self.deep else "image.tokens"].float()))
        tiles = self.dropout(tiles)
        scores = self.attention(tiles)
        pooled = shares(scores, bag["image.mask"]) @ tiles
        return {"image@bag.tokens": tiles, "image@bag.attention": scores, "image@bag.pooled": pooled}

    def logits(self, features: Features, scale: Tensor, novel: bool = False) -> Features:
        """See `Adapter.logits`; `text.pooled` is not read."""
        name = type(self).__name__
        if novel:
            raise ValueError(f"{name} knows the classes of its training alone; it cannot score novel ones")
        return {"image.logits": self._classified(of_bag(name, features, "image@bag.pooled"))}

    def _classified(self, pooled: Tensor) -> Tensor:
        """Scores of pooled features `[B, branches, hidden]`, `[B, C]`."""
        scores: Tensor = self.classifier(pooled[:, 0])
        return scores

    def only_known_classes(self) -> bool:
        """See `Adapter.only_known_classes`."""
        return True
