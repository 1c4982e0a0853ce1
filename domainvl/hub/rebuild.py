"""The model below an adapter, as `domainvl.json` describes it: classes of `domainvl.backbones`, plain arguments.

A description may come from anyone. Classes are looked up by name among ours; checkpoints are those of the Hub or of
this package, a path is never followed; sizes are bounded before anything is made. What lay in a folder of somebody's
machine is described by the folder's name alone, which tells its owner what to give.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from domainvl import backbones
from domainvl.backbones.base import Backbone
from domainvl.data.preset import Preset
from domainvl.data.volumes.preset import VolumePreset
from domainvl.hub.card import CARD, AdapterCard

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_PLACES = ("name", "pretrained", "text_model", "image", "text", "weights", "tokenizer")
_MOST, _VOXELS, _FINEST = 4096, 2**27, 0.2
"""Largest number, voxels of a volume, and millimetres between them, that a description may ask for."""


def described(backbone: Backbone) -> dict[str, Any]:
    """Class and arguments as plain values; empty for a class that is not of this package."""
    kind = type(backbone)
    if getattr(backbones, kind.__name__, None) is not kind:
        return {}
    arguments = {key: _plain(value) for key, value in backbone.config().items()}
    return {} if arguments.get("base") == {} else {"class_path": kind.__name__, "init_args": arguments}


def backbone_of(card: AdapterCard) -> Backbone:
    """The model that an adapter was trained on, made again; ValueError with what to give where that takes a folder."""
    model = card.model or _of_before(card)
    if model is None or _folders(model):
        call = f"{card.backbone.kind}(...)" if model is None else _call(model)
        raise ValueError(
            f"this {card.adapter} adapter stands on {card.backbone.kind}({card.backbone.name!r}, weights "
            f"{card.backbone.weights}), which its name alone does not bring back; make the model and pass it: "
            f"domainvl.load(..., backbone={call})"
        )
    return _made(model)


def preset_of(card: AdapterCard, backbone: Backbone) -> Preset | VolumePreset:
    """How inputs were prepared: as the data module said, or else as the model asks for."""
    given = card.preparation.get("preset")
    return backbone.preset if given is None else _preset(given, type(backbone.preset))


def _plain(value: Any) -> Any:
    if isinstance(value, Backbone):
        return described(value)
    return asdict(value) if isinstance(value, VolumePreset) else value


def _of_before(card: AdapterCard) -> dict[str, Any] | None:
    """The description of a folder that has none, where the model's name is enough for one."""
    spec = card.backbone
    if spec.kind not in ("HuggingFace", "OpenClip"):
        return None
    name = spec.name.removeprefix("hf-hub:")
    if not name.startswith("builtin:") and ("/" not in name or not _is_hub_id(name)):
        return None
    return {"class_path": spec.kind, "init_args": {"name": name, "revision": spec.revision}}


def _folders(value: Any) -> bool:
    """Whether anything in a description lay in a folder."""
    if not isinstance(value, dict):
        return False
    return set(value) == {"folder"} or any(_folders(item) for item in value.values())


def _made(model: Any, inner: bool = False) -> Backbone:
    if not isinstance(model, dict) or set(model) != {"class_path", "init_args"}:
        raise ValueError(f"{CARD}: 'model' should hold class_path and init_args, got {_short(model)}")
    name, given = model["class_path"], model["init_args"]
    kind = getattr(backbones, name, None) if name in backbones.__all__ else None
    if kind is None or inspect.isabstract(kind) or not issubclass(kind, Backbone):
        raise ValueError(f"{CARD}: 'model' names {_short(name)}; models are found in domainvl.backbones alone")
    if inner and issubclass(kind, backbones.VolumeBackbone):
        raise ValueError(f"{CARD}: 'model' puts {name} below another model of volumes; a model of pictures goes there")
    known = set(inspect.signature(kind).parameters)
    if not isinstance(given, dict) or not set(given) <= known:
        raise ValueError(f"{CARD}: {name} takes {', '.join(sorted(known))}, got {_short(given)}")
    arguments = {key: _argument(key, value) for key, value in given.items()}
    try:
        made: Backbone = kind(**arguments)
    except TypeError as error:
        raise ValueError(f"{CARD}: {name} cannot be made of {_short(given)}: {error}") from None
    return made


def _argument(key: str, value: Any) -> Any:
    if key == "base":
        return _made(value, inner=True)
    if key == "preset":
        return _preset(value, VolumePreset)
    if key in _PLACES and value is not None:
        return _place(value)
    if value is None or isinstance(value, (bool, str)):
        return value
    if not isinstance(value, (int, float)):
        raise ValueError(f"{CARD}: 'model' gives {key}={_short(value)}; a number, a text or nothing goes there")
    if key != "seed":
        _check_size(key, (value,))
    elif not isinstance(value, int) or abs(value) >= 2**63:
        raise ValueError(f"{CARD}: 'model' gives seed={_short(value)}; a whole number below 2**63 goes there")
    return value


def _place(value: Any) -> str:
    """A Hub id or a built-in name; anything that could be a path on this machine is refused."""
    if not isinstance(value, str) or not (value.startswith("builtin:") or _is_hub_id(value)):
        raise ValueError(
            f"{CARD}: 'model' names the checkpoint {_short(value)}, which is no id on the Hub; a path is never "
            "followed. Make the model and pass it: domainvl.load(..., backbone=...)"
        )
    return value


def _is_hub_id(name: str) -> bool:
    return _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def _preset(value: Any, kind: type[Preset | VolumePreset]) -> Preset | VolumePreset:
    if not isinstance(value, dict) or not set(value) <= set(inspect.signature(kind).parameters):
        raise ValueError(f"{CARD}: the preset should hold arguments of {kind.__name__}, got {_short(value)}")
    try:
        made = kind(**value)
        _check_size("preset", made.shape)
        if isinstance(made, Preset):
            _check_size("preset", (made.resize or 1,))
        elif min(made.spacing) < _FINEST:
            raise ValueError(f"spacing is {made.spacing}; accepted is from {_FINEST} mm")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{CARD}: a {kind.__name__} cannot be made of {_short(value)}: {error}") from None
    return made


def _check_size(key: str, numbers: Sequence[float]) -> None:
    """Raise for numbers that no model has, before anything of that size is made."""
    if any(abs(number) > _MOST for number in numbers) or math.prod(max(1, abs(number)) for number in numbers) > _VOXELS:
        said = " x ".join(map(_short, numbers))
        raise ValueError(f"{CARD}: {key} is {said}; accepted is up to {_MOST}, and {_VOXELS:,} voxels in all")


def _call(model: Mapping[str, Any]) -> str:
    """A description as a line of Python for whoever has the folder."""
    parts = [f"{key}={_shown(value)}" for key, value in model.get("init_args", {}).items() if value is not None]
    return f"{model.get('class_path')}({', '.join(parts)})"


def _shown(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"folder"}:
        return repr(f"PATH/{value['folder']}")
    if isinstance(value, dict) and "class_path" in value:
        return _call(value)
    if isinstance(value, dict):
        return f"VolumePreset({', '.join(f'{key}={item!r}' for key, item in value.items())})"
    return repr(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."
