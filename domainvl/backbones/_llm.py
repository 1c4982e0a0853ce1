"""Language models of transformers, loaded as text encoders, and texts with an instruction in front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from domainvl.backbones._loading import Source, require_files
from domainvl.backbones._structure import Places
from domainvl.backbones._texts import check_texts, encode, places_of
from domainvl.features import TextInputs
from domainvl.towers.latent_attention import LatentAttention

_LATENT = "latent_attn."


def load_llm(owner: str, source: Source, config: Any) -> Any:
    """The model without its head, in fp32; only safetensors are read."""
    from transformers import AutoModel

    require_files(owner, source, "model.safetensors", "model.safetensors.index.json")
    # The fused kernel has no cap on scores, which Gemma 2 asks for.
    attention = "eager" if getattr(config, "attn_logit_softcapping", None) is not None else "sdpa"
    model, info = AutoModel.from_pretrained(
        source.folder,
        config=config,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=torch.float32,
        attn_implementation=attention,
        output_loading_info=True,
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(f"{owner}: the weights of {source.name!r} lack {len(missing)} tensors, e.g. {missing[:3]}")
    return model.eval()


def load_latent(owner: str, source: Source, width: int, seed: int) -> LatentAttention:
    """Latent attention from the checkpoint where it has one (LLM2Vec4CXR), else untrained, from `seed`."""
    from safetensors import safe_open

    found: dict[str, Tensor] = {}
    for path in sorted(source.folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  # the file is no mapping
                if _LATENT in name:
                    found[name.split(_LATENT, 1)[1]] = file.get_tensor(name).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = LatentAttention(width, len(found["latents"]) if "latents" in found else 512)
    if found:
        expected = set(module.state_dict())
        if set(found) != expected:
            raise ValueError(
                f"{owner}: the latent attention of {source.name!r} is built otherwise; missing "
                f"{sorted(expected - set(found))[:3]}, unknown {sorted(set(found) - expected)[:3]}"
            )
        module.load_state_dict(found)
    return module.eval()


def front(instruction: str) -> str:
    """What stands in front of every text."""
    return f"{instruction.strip()} " if instruction.strip() else ""


def encode_behind(owner: str, tokenizer: Any, texts: Sequence[str], context: int, instruction: str) -> TextInputs:
    """Run a tokenizer on texts behind an instruction, and say which tokens are the text."""
    check_texts(owner, texts)
    whole = [front(instruction) + text for text in texts]
    if not any(whole) and not tokenizer("")["input_ids"]:
        # Nothing but empty texts, and no start token either: one place of padding, which is not read.
        nothing = torch.zeros(len(texts), 1, dtype=torch.bool)
        return TextInputs(torch.full((len(texts), 1), tokenizer.pad_token_id), keep=nothing, pooled=nothing)
    inputs = encode(owner, tokenizer, whole, context, fixed=False)
    places = places_behind(tokenizer, texts, inputs.ids, instruction)
    return replace(inputs, pooled=torch.tensor([[span is not None for span in row] for row in places]))


def check_room(owner: str, tokenizer: Any, context: int, instruction: str) -> None:
    """Raise for an instruction that leaves no room for texts."""
    size = len(tokenizer(front(instruction))["input_ids"])
    if instruction and size >= context:
        raise ValueError(
            f"{owner}: the instruction is {size} tokens and a text is cut to context={context}, so nothing of it is "
            "left; shorten the instruction or raise context"
        )


def places_behind(tokenizer: Any, texts: Sequence[str], ids: Tensor, instruction: str) -> list[Places]:
    """As `places_of`, for texts behind an instruction, of which no token has a place."""
    before = front(instruction)
    rows = places_of(tokenizer, [before + text for text in texts], ids, fixed=False)
    size = len(before)
    return [
        [None if span is None or span[1] <= size else (max(span[0] - size, 0), span[1] - size) for span in row]
        if size
        else row
        for row in rows
    ]
