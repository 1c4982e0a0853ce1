"""Reading files that may come from anyone: what is not plainly what it should be is refused, and nothing is run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

_SMALL = 4096
"""Sizes up to this need no proof: no method makes more than a few of such a side by such a side."""


def inner_file(folder: Path, name: str) -> Path:
    """The path of a file of a folder; a link that leads elsewhere is refused.

    In the cache of huggingface_hub a snapshot is made of links into `blobs`, two folders up; these are followed.
    """
    path = folder / name
    real, home = path.resolve(), folder.resolve()
    allowed = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    if not any(real.is_relative_to(place) for place in allowed):
        raise ValueError(f"{path} is a link that leads out of its folder, to {real}; it is not followed")
    return path


def read_json(path: Path, most_bytes: int) -> Any:
    """Plain JSON: every key once, no NaN, no endless nesting, of a sensible size."""
    size = path.stat().st_size
    if size > most_bytes:
        raise ValueError(f"{path} has {size:,} bytes; a description has at most {most_bytes:,}")
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path} is damaged ({said}); copy or download the adapter again") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, all of them finite; nothing else is read, whatever the file is called."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged or no safetensors file ({error}); copy or download the adapter again"
        ) from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{path}: the tensor {name!r} holds values that are not finite; it is of no use")
    return tensors


def check_sizes(path: Path, arguments: Any, tensors: Mapping[str, Tensor]) -> None:
    """Raise where a description asks for sizes that the file's own tensors do not have.

    Layers are made before they are compared with what was saved: without this a description of one line could ask for
    more memory than there is.

    Args:
        path: The description, for the message.
        arguments: The arguments of the method.
        tensors: What was saved.
    """
    largest = max((side for tensor in tensors.values() for side in tensor.shape), default=0)
    for key, value in _integers("", arguments):
        if abs(value) > max(_SMALL, largest):
            raise ValueError(
                f"{path}: init_args say {key}={value}, and no tensor of the adapter has a side longer than {largest}"
            )


def _integers(key: str, value: Any) -> list[tuple[str, int]]:
    if isinstance(value, dict):
        return [found for name, item in value.items() for found in _integers(name, item)]
    if isinstance(value, list):
        return [found for item in value for found in _integers(key, item)]
    whole = isinstance(value, (int, float)) and not isinstance(value, bool) and float(value).is_integer()
    return [(key, int(value))] if whole else []


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is written twice")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
