"""What methods that work across the slices of a volume share."""

from __future__ import annotations

import math

from torch import Tensor

from domainvl.tokens import TokenState
from domainvl.towers.base import Tower
from domainvl.towers.slices import Slices


def slices_of(adapter: str, tower: Tower) -> Slices:
    """The tower, which has to go slice by slice."""
    if not isinstance(tower, Slices):
        raise TypeError(
            f"{adapter} pools the slices of a volume, which {type(tower).__name__} does not give one by one; use it "
            "with a backbone of slices (SliceVolume)"
        )
    return tower


def as_volume(patches: Tensor, state: TokenState) -> Tensor:
    """Patch tokens `[rows, L, C]` of a state as `[B, C, D, H, W]`; a picture is one slice."""
    if state.grid is None:
        raise RuntimeError("as_volume: this state has no grid")
    grid = state.grid if len(state.grid) == 3 else (state.parts, *state.grid)
    return patches.reshape(-1, math.prod(grid), patches.shape[-1]).transpose(1, 2).unflatten(2, grid)


def as_patches(volume: Tensor, state: TokenState) -> Tensor:
    """The inverse of `as_volume`."""
    return volume.flatten(2).transpose(1, 2).reshape(len(state.tokens), -1, volume.shape[1])
