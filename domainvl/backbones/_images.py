"""Image encoders for `Pair`: timm's checkpoints, and the image half of a CLIP of transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from domainvl.backbones._loading import Source, read_json, require_files
from domainvl.backbones._processor import read_preset
from domainvl.backbones.huggingface import load_model
from domainvl.data.preset import Fit, Preset

IMAGE_FILES = ("config.json", "*processor_config.json", "model.safetensors", "model-*.safetensors", "*.index.json")
_FITS: dict[str, Fit] = {"center": "crop", "squash": "squash"}


def clip_size(image: Any) -> int | None:
    """Size of the space that a CLIP's own projection leads to; None for other encoders, which have none."""
    projection = getattr(image, "visual_projection", None)
    return None if projection is None else int(projection.out_features)


def load_image(owner: str, source: Source) -> tuple[Any, Preset]:
    """The encoder and how its images are prepared; a timm model without its classifier, a CLIP without its texts."""
    config = read_json(owner, require_files(owner, source, "config.json"))
    if config.get("model_type") == "clip":
        return _load_clip(owner, source)
    return _load_timm(owner, source, config)


def _load_clip(owner: str, source: Source) -> tuple[Any, Preset]:
    require_files(owner, source, "model.safetensors", "model.safetensors.index.json")
    model = load_model(owner, source, "clip")
    # Loaded alone, the image half would complain of every tensor of the other.
    del model.text_model, model.text_projection, model.logit_scale
    return model, read_preset(owner, source, model.config.vision_config.image_size)


def _load_timm(owner: str, source: Source, config: Mapping[str, Any]) -> tuple[Any, Preset]:
    import timm
    from safetensors.torch import load_file

    weights = require_files(owner, source, "model.safetensors")
    name = config.get("architecture")
    if name not in timm.list_models():
        raise ValueError(
            f"{owner}: config.json of {source.name!r} names the architecture {name!r}, which timm does not know; "
            "`image` takes checkpoints in timm's format, or a CLIP of transformers"
        )
    data = config.get("pretrained_cfg", config)
    options = dict(config.get("model_args", {}))
    if data.get("fixed_input_size") and "img_size" not in options:
        options["img_size"] = data["input_size"][-1]
    model = timm.create_model(name, pretrained=False, **{**options, "num_classes": 0})
    heads = data.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    # The classifier of the pretraining is no part of an image encoder.
    tensors = {
        key: tensor
        for key, tensor in load_file(weights).items()
        if not any(key.startswith(f"{head}.") for head in heads)
    }
    missing, unknown = model.load_state_dict(tensors, strict=False)
    if missing or unknown:
        raise ValueError(
            f"{owner}: the weights of {source.name!r} do not fit timm's {name!r}; missing {missing[:3]}, "
            f"unknown {unknown[:3]}"
        )
    return model.eval(), _timm_preset(owner, source.name, data)


def _timm_preset(owner: str, name: str, data: Mapping[str, Any]) -> Preset:
    size = data["input_size"]
    if size[0] != 3 or size[1] != size[2]:
        raise ValueError(
            f"{owner}: {name!r} takes images of shape {tuple(size)}; accepted are square ones with 3 channels"
        )
    mode = data.get("crop_mode", "center")
    if mode not in _FITS:
        raise ValueError(f"{owner}: {name!r} asks for crop_mode {mode!r}; accepted are {', '.join(_FITS)}")
    resize = math.floor(size[1] / data.get("crop_pct", 0.875))
    return Preset(
        name=name,
        size=size[1],
        fit=_FITS[mode],
        interpolation=data.get("interpolation", "bicubic"),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        resize=None if resize == size[1] else resize,
    )
