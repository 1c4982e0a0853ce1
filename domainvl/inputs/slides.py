"""Slides as the features of their tiles, which `python -m domainvl embed RECIPE` writes."""

from __future__ import annotations

import torch
from torch import Tensor

from domainvl.data.bags import Bag, padded
from domainvl.data.feature_file import Maker, read_features
from domainvl.data.preset import Preset
from domainvl.data.rejects import UnreadableImage
from domainvl.data.volumes.preset import VolumePreset
from domainvl.inputs.base import Inputs, unreadable


class SlideFeatures(Inputs):
    """Feature files of slides.

    Args:
        preset: Preprocessing of tiles.
        maker: The model and the tile plan that the features have to be of.
    """

    noun = "slide"
    batch_size = 4

    def __init__(self, preset: Preset | VolumePreset, maker: Maker) -> None:
        self.preset, self.maker = preset, maker

    def open(self, number: int, item: object) -> Bag:
        """The tiles of a slide."""
        path = self.path(number, item)
        if path.suffix.lower() != ".h5":
            raise ValueError(
                f"{path} is no file of features; `python -m domainvl embed RECIPE --data.root DIR` cuts slides into "
                "tiles and writes one NAME.h5 for each, which are given here"
            )
        try:
            found = read_features(path, self.maker)
        except UnreadableImage as error:
            raise unreadable(path, error) from None
        if found.joint is None:
            raise ValueError(f"{path} has no projected features; embed the slide anew")
        joint, deep = (torch.from_numpy(rows).half() for rows in (found.joint, found.deep))
        return Bag(joint, deep, torch.from_numpy(found.places.at))

    def stack(self, items: list[Bag]) -> dict[str, Tensor]:
        """See `domainvl.data.bags`."""
        return padded(items)
