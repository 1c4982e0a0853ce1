"""Which inputs an adapter takes: what its folder says of the training's data module, and what its model takes."""

from __future__ import annotations

from typing import Any

from domainvl import hub
from domainvl.backbones.base import Backbone
from domainvl.data.feature_file import Maker
from domainvl.data.volumes.preset import VolumePreset
from domainvl.inputs.base import Inputs
from domainvl.inputs.pictures import Pictures
from domainvl.inputs.slides import SlideFeatures
from domainvl.inputs.volumes import Volumes

_KNOWN = ("crop", "preset", "region", "sensor", "tiles")


def inputs_of(card: hub.AdapterCard, backbone: Backbone) -> Inputs:
    """How what the adapter was trained on is read; see `DataModule.preparation_facts`."""
    said: dict[str, Any] = dict(card.preparation)
    unknown = sorted(set(said) - set(_KNOWN))
    odd = [key for key, value in said.items() if key != "preset" and not isinstance(value, str)]
    if unknown or odd:
        raise ValueError(
            f"domainvl.json: 'preparation' holds {', '.join([*unknown, *odd])}; it should hold texts under "
            f"{', '.join(_KNOWN)}"
        )
    preset = hub.preset_of(card, backbone)
    if said.get("tiles") == "unsigned":
        raise ValueError(
            f"this {card.adapter} adapter was trained on features of slides that another tool wrote, and nothing says "
            "whether other files fit; use `python -m domainvl predict RECIPE --adapter FOLDER`"
        )
    if "tiles" in said:
        spec = backbone.spec()
        return SlideFeatures(preset, Maker.of(spec.kind, spec.name, spec.weights, spec.preset, said["tiles"]))
    if isinstance(preset, VolumePreset):
        return Volumes(preset, said.get("crop", "none"), said.get("region", "any"))
    return Pictures(preset, said.get("sensor"))
