"""ViLaMIL: prototypes and class texts that query the tiles of a slide (Shi et al., CVPR 2024, arXiv 2502.08391).

With x the tiles and t the class texts in the joint space, normalised, and P learned prototypes:

    Q = norm(P + attend(P; x))      f = gated attention pooling of Q      t'_c = t_c + attend(t_c; [Q, x])
    image.logits_c = f . t'_c

The authors put learned words in front of the class texts: that is `CoOp`, in a `Compose` with this.

Differs from the authors' code: one magnification (theirs sums the scores of two, with the same weights); several slides
at once, shorter ones filled up and masked; tiles and texts are normalised on the way in, so that one setting serves
models whose features have other lengths.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domainvl.adapters._bags import TileAttention, of_bag
from domainvl.adapters.base import Adapter
from domainvl.backbones.base import Backbone
from domainvl.features import Features


class ViLaMIL(Adapter):
    """Learned prototypes summarise a slide; class texts look at it before they are compared.

    Args:
        prototypes: How many.
        width: Size of the hidden layers that weigh prototypes.
    """

    def __init__(self, prototypes: int = 16, width: int = 256) -> None:
        super().__init__()
        if prototypes < 1 or width < 1:
            raise ValueError(f"ViLaMIL: prototypes and width must be positive, got {prototypes} and {width}")
        self.count, self.width = prototypes, width

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {"prototypes": self.count, "width": self.width}

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`."""
        size = backbone.image.out_dim
        self.prototypes = nn.Parameter(nn.init.trunc_normal_(torch.empty(self.count, size), std=0.02))
        self.summary = nn.MultiheadAttention(size, 1, batch_first=True)
        self.norm = nn.LayerNorm(size)
        self.attention = TileAttention(size, self.width)
        self.reading = nn.MultiheadAttention(size, 1, batch_first=True)
        self.to(backbone.logit_scale.device)

    def pool_tiles(self, bag: Features) -> Features:
        """See `Adapter.pool_tiles`: the prototypes with what they found, and their weighted mean."""
        tiles = F.normalize(bag["image.tokens"].float(), dim=-1)
        asked = self.prototypes.expand(len(tiles), -1, -1)
        found, _ = self.summary(asked, tiles, tiles, key_padding_mask=~bag["image.mask"], need_weights=False)
        found = self.norm(asked + found)
        weights = self.attention(found).softmax(dim=-1)
        return {"image@bag.tokens": found, "image.pooled": (weights @ found)[:, 0]}

    def logits(self, features: Features, scale: Tensor, novel: bool = False) -> Features:
        """See `Adapter.logits`; `scale` is not read."""
        found, tiles = of_bag("ViLaMIL", features, "image@bag.tokens"), F.normalize(features["image.tokens"], dim=-1)
        text = F.normalize(features["text.pooled"].float(), dim=-1)
        text = text.expand(len(found), -1, -1) if text.dim() == 2 else text
        seen = torch.cat([found, tiles], dim=1)
        unread = F.pad(~features["image.mask"], (self.count, 0), value=False)
        heard, _ = self.reading(text, seen, seen, key_padding_mask=unread, need_weights=False)
        return {"image.logits": ((text + heard) * features["image.pooled"][:, None]).sum(dim=-1)}
