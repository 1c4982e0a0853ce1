"""Stains as mixtures: what haematoxylin and eosin absorb, how much of each there is, and how both can be changed.

Light that passes tissue is absorbed exponentially, so stains add up in optical density `-log(I / I_0)`:

    density [pixels, 3] = amounts [pixels, S] @ stains [S, 3]

`HED` are the stains that Ruifrok and Johnston measured (2001): haematoxylin, eosin, DAB. `fit` finds the two of one
slide (Macenko et al., ISBI 2009): the directions at the 1st and 99th percentile of the angle in the plane of the two
largest principal components.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

HED = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Stains of Ruifrok and Johnston, rows as published."""

_WHITE = 255.0
_SEEN = 0.15
"""Density that a pixel must have in every colour to count (Macenko); fibres that let all red pass do not."""
_TAIL = 0.01
_FEWEST = 200


def density(pixels: Tensor) -> Tensor:
    """Optical density of pixels in 0..255, any shape; a black pixel has that of the value 1."""
    return -torch.log(pixels.float().clamp(min=1) / _WHITE)


def seen(densities: Tensor) -> Tensor:
    """Pixels in 0..255 of optical densities."""
    return (_WHITE * torch.exp(-densities)).clamp(0, _WHITE)


def jittered(pixels: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
    """Pictures with other amounts of each stain: `amounts * factor + offset`.

    Args:
        pixels: 0..255, `[B, 3, H, W]`.
        factor: For haematoxylin, eosin and the rest, `[B, 3]`.
        offset: The same.

    Returns:
        Float in 0..255, same shape. Factors 1 and offsets 0 give the picture back (value 0 as 1).
    """
    stains = _unit(HED.to(pixels.device))
    amounts = density(pixels).movedim(1, -1) @ torch.linalg.inv(stains)
    changed = amounts * factor[:, None, None].to(amounts) + offset[:, None, None].to(amounts)
    return seen((changed @ stains).movedim(-1, 1))


@dataclass(frozen=True, eq=False)
class Stains:
    """The stains of one slide.

    Attributes:
        directions: Unit absorption of haematoxylin and eosin, `[2, 3]`.
        most: The 99th percentile of their amounts, `[2]`.
    """

    directions: Tensor
    most: Tensor

    def amounts(self, pixels: Tensor) -> Tensor:
        """How much of both stains there is, by least squares: `[..., 3] -> [..., 2]`."""
        return density(pixels) @ torch.linalg.pinv(self.directions.to(pixels.device))


REFERENCE = Stains(torch.tensor([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]]), torch.tensor([1.9705, 1.0308]))
"""What slides are normalised to where nothing else is asked for (the reference in common use for Macenko's method)."""


def fit(pixels: Tensor) -> Stains | None:
    """The stains of a slide, by Macenko's method.

    Args:
        pixels: Tissue of the slide, 0..255, `[N, 3]`: of a thumbnail or of some tiles, not of one tile.

    Returns:
        None where there is too little that is stained, or one stain only; then a slide is left as it is.
    """
    densities = density(pixels).double()
    densities = densities[(densities > _SEEN).all(dim=-1)]
    if len(densities) < _FEWEST:
        return None
    values, vectors = torch.linalg.eigh(torch.cov(densities.T))
    if float(values[1]) < 1e-6 * float(values[2]):
        return None
    plane = vectors[:, [2, 1]]
    # A direction and its opposite are one line; light is never added.
    plane = plane * torch.where(plane.sum(dim=0) < 0, -1.0, 1.0)
    angles = torch.atan2(*(densities @ plane).T.flip(0))
    low, high = (torch.quantile(angles, share) for share in (_TAIL, 1 - _TAIL))
    ends = torch.stack([plane @ torch.stack([angle.cos(), angle.sin()]) for angle in (low, high)])
    # Haematoxylin is the one that absorbs more red.
    ends = _unit(ends[ends[:, 0].argsort(descending=True)])
    amounts = densities @ torch.linalg.pinv(ends)
    most = torch.quantile(amounts, 1 - _TAIL, dim=0)
    return Stains(ends.float(), most.float()) if bool((most > 0).all()) else None


def normalised(pixels: Tensor, stains: Stains | None, target: Stains = REFERENCE) -> Tensor:
    """Pictures of one slide in the stains of another.

    Args:
        pixels: 0..255, `[B, 3, H, W]`.
        stains: Of the slide; None leaves the pictures as they are.
        target: To be stained like.

    Returns:
        Float in 0..255, same shape.
    """
    if stains is None:
        return pixels.float()
    amounts = stains.amounts(pixels.movedim(1, -1))
    amounts = amounts * (target.most / stains.most).to(amounts)
    return seen((amounts @ target.directions.to(amounts)).movedim(-1, 1))


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)
