"""What `LoRA` needs of peft: names, the principal start of PiSSA, and the pair of files that peft reads."""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

if TYPE_CHECKING:
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

NAME, START = "default", "start"
"""peft's names for the factors that are learned, and for what PiSSA takes away again."""


def factors_of(layer: LoraLayer) -> nn.ModuleDict:
    """The modules of a layer that an adapter owns."""
    found = {"A": layer.lora_A[NAME], "B": layer.lora_B[NAME], "dropout": layer.lora_dropout[NAME]}
    if NAME in layer.lora_magnitude_vector:
        found["magnitude"] = layer.lora_magnitude_vector[NAME]
    if START in layer.lora_A:
        found |= {"start_A": layer.lora_A[START], "start_B": layer.lora_B[START]}
    return nn.ModuleDict(found)


def ending_like(names: Sequence[str], known: set[str]) -> list[str]:
    """Names in `known` that peft mixes up with `names`: it compares the ends of names."""
    wanted = set(names)
    return sorted(other for other in known - wanted if any(other.endswith(f".{name}") for name in names))


def block_of(name: str) -> int:
    """The block that a layer lies in: the first number in its name."""
    found = re.search(r"\.(\d+)\.", name)
    if found is None:
        raise RuntimeError(f"LoRA: no block number in the layer name {name!r}")
    return int(found[1])


def start_from_principal_part(library: nn.Module, config: LoraConfig, layers: Mapping[str, LoraLayer]) -> None:
    """Start A and B as the r largest singular directions of each weight, and take their product away again.

    peft writes W - s B A into the model. Here W stays as it is, for `off` and for other adapters, and a second pair of
    frozen factors subtracts what A and B started as.
    """
    from peft import inject_adapter_in_model

    fixed = copy.deepcopy(config)
    fixed.lora_dropout = 0.0
    with warnings.catch_warnings():
        # A second set of factors is what is wanted here.
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        inject_adapter_in_model(fixed, library, START)
    for name, layer in layers.items():
        weight = cast(nn.Linear, layer.get_base_layer()).weight
        rank, scale = config.r, layer.scaling[NAME]
        if rank > min(weight.shape):
            raise ValueError(f"LoRA: variant pissa needs a rank of at most {min(weight.shape)} for {name}, got {rank}")
        left, values, right = torch.linalg.svd(weight.detach().float(), full_matrices=False)
        root = (values[:rank] / scale).sqrt()
        for factor, value in (("lora_A", root[:, None] * right[:rank]), ("lora_B", left[:, :rank] * root)):
            learned, start = getattr(layer, factor)[NAME], getattr(layer, factor)[START]
            learned.weight.data.copy_(value)
            # A buffer: it is saved with the adapter, and no optimiser and no `requires_grad_` of peft reaches it.
            del start.weight
            start.register_buffer("weight", learned.weight.detach().clone())
        layer.scaling[START] = -scale
        layer.set_adapter([NAME, START])


def write_pair(folder: Path, config: LoraConfig, layers: Mapping[str, LoraLayer], base: str | None) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`.

    PiSSA's two pairs of factors become one of rank 2 r, which is plain LoRA on the untouched weights.
    """
    values = config.to_dict() | {"base_model_name_or_path": base, "inference_mode": True}
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        prefix = f"base_model.model.{name}"
        a, b = _weight(layer.lora_A[NAME]), _weight(layer.lora_B[NAME])
        if START in layer.lora_A:
            a = torch.cat([a, _weight(layer.lora_A[START])])
            b = torch.cat([b, -_weight(layer.lora_B[START])], dim=1)
            values["r"] = 2 * config.r
            values["lora_alpha"] = config.lora_alpha * (2**0.5 if config.use_rslora else 2)
        tensors[f"{prefix}.lora_A.weight"], tensors[f"{prefix}.lora_B.weight"] = a, b
        if NAME in layer.lora_magnitude_vector:
            tensors[f"{prefix}.lora_magnitude_vector"] = _weight(layer.lora_magnitude_vector[NAME])
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}
    text = json.dumps(plain, indent=2, sort_keys=True) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _weight(module: nn.Module) -> Tensor:
    return cast(Tensor, module.weight).detach()
