"""A learned position along depth, for 2-D models that were lifted to volumes.

    x[d] + p_d      for the patch tokens of slice or layer d, in front of the first block; p = 0 at start

A lifted model has never seen which slice lies above which. This is the learned half of inflation (`Inflated` holds the
fixed one) as a part that is trained and saved while the model stays frozen; it goes together with any other method
(`Compose`). It is the temporal embedding of image-to-video transfer, as TimeSformer has it (arXiv 2102.05095).
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


class DepthEmbedding(Adapter):
    """One learned vector for every slice, or layer of 3-D patches."""

    def __init__(self) -> None:
        super().__init__()

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {}

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`."""
        tower = backbone.image
        require_token_editing("DepthEmbedding", tower)
        with torch.no_grad():
            layers = _layers(tower.embed(backbone.blank()))
        self.positions = nn.Parameter(torch.zeros(layers, tower.width))
        self.to(backbone.logit_scale.device)

    def first_block(self, side: Side, tower: Tower) -> int:
        """See `Adapter.first_block`."""
        return 0 if side == "image" else tower.depth

    def same_rows(self) -> bool:
        """See `Adapter.same_rows`: no text is touched."""
        return True

    def edit(self, side: Side, index: int, state: TokenState) -> TokenState:
        """See `Adapter.edit`."""
        if side == "text" or index > 0:
            return state
        layers = _layers(state)
        if layers != len(self.positions):
            raise ValueError(
                f"DepthEmbedding: made for {len(self.positions)} slices or layers of patches, this volume has "
                f"{layers}; give volumes of the preset's size"
            )
        place = state.patches()
        patches = state.tokens[:, place]
        # A row holds one slice, or all layers one after the other.
        along = self.positions.to(patches.dtype).repeat_interleave(patches.shape[1] * state.parts // layers, dim=0)
        added = along.unflatten(0, (state.parts, -1)).repeat(len(patches) // state.parts, 1, 1)
        return state.step(
            torch.cat([state.tokens[:, : place.start], patches + added, state.tokens[:, place.stop :]], dim=1)
        )


def _layers(state: TokenState) -> int:
    if state.grid is None:
        raise RuntimeError("DepthEmbedding: this tower's state has no grid")
    return state.grid[0] if len(state.grid) == 3 else state.parts
