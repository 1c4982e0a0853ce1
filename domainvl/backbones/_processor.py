"""A checkpoint's own image processor, read as a `Preset`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from domainvl.backbones._loading import Source, read_json, require_files
from domainvl.data.preset import Fit, Preset

_RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}


def read_preset(owner: str, source: Source, image_size: int) -> Preset:
    """The preset in `preprocessor_config.json`, or in the `processor_config.json` of newer checkpoints."""
    path = require_files(owner, source, "preprocessor_config.json", "processor_config.json")
    values = read_json(owner, path)
    values = values.get("image_processor", values)
    preset = preset_of(owner, source.name, values)
    if preset.size != image_size:
        raise ValueError(
            f"{owner}: {path.name} of {source.name!r} makes images of {preset.size} pixels and the model "
            f"takes {image_size}; correct the file"
        )
    return preset


def preset_of(owner: str, name: str, values: Mapping[str, Any]) -> Preset:
    """Translate the fields of a transformers image processor; what a `Preset` cannot express is refused."""

    def refuse(field: str, accepted: str) -> ValueError:
        return ValueError(f"{owner}: {name!r} asks for {field}={values.get(field)!r}; accepted is {accepted}")

    for step in ("do_resize", "do_rescale"):
        if values.get(step, True) is not True:
            raise refuse(step, "true")
    if abs(values.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise refuse("rescale_factor", "1/255")
    if values.get("do_pad"):
        raise refuse("do_pad", "false")
    interpolation = _RESAMPLE.get(values.get("resample", 3))
    if interpolation is None:
        raise refuse("resample", "0 (nearest), 2 (bilinear) or 3 (bicubic)")
    normalise = values.get("do_normalize", True)
    mean = values["image_mean"] if normalise else (0.0, 0.0, 0.0)
    std = values["image_std"] if normalise else (1.0, 1.0, 1.0)

    edge, kind = _edge(values.get("size"), legacy="shortest")
    if edge is None:
        raise refuse("size", "one number, {shortest_edge: n} or {height: n, width: n} with both equal")
    # Old CLIP processors do not write do_center_crop's default; the crop size tells.
    if values.get("do_center_crop", "crop_size" in values):
        crop, _ = _edge(values.get("crop_size"), legacy="square")
        if crop is None:
            raise refuse("crop_size", "one number, or {height: n, width: n} with both equal")
        fit: Fit = "crop" if kind == "shortest" else "squash"
        if edge < crop:
            raise refuse("crop_size", "one that is not larger than size")
        resize = None if edge == crop else edge
        return Preset(name, crop, fit, interpolation, tuple(mean), tuple(std), resize, half="down")
    if kind == "shortest":
        raise refuse("do_center_crop", "true with size.shortest_edge: images of one batch need one shape")
    return Preset(name, edge, "squash", interpolation, tuple(mean), tuple(std))


def _edge(size: Any, legacy: Literal["shortest", "square"]) -> tuple[int | None, str]:
    if isinstance(size, int):
        return size, legacy
    if isinstance(size, Mapping):
        if isinstance(size.get("shortest_edge"), int):
            return size["shortest_edge"], "shortest"
        if isinstance(size.get("height"), int) and size["height"] == size.get("width"):
            return size["height"], "square"
    return None, ""
