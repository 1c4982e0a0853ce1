"""What several towers need: the pooled position, the context limit, masks, and names for PEFT."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from domainvl.features import TextInputs
from domainvl.tokens import TokenState
from domainvl.towers.base import LORA_PARTS, Words

Parts = Mapping[tuple[str, ...], tuple[str, ...]]
"""Layer names inside one block by the parts (of LORA_PARTS) that they compute; a fused layer has several."""


def pick(state: TokenState) -> Tensor:
    """The token at the readout position of every row, `[B, D]`."""
    if state.readout is None:
        raise RuntimeError("pick: this state has no readout position, its tower pools otherwise")
    return state.tokens[torch.arange(state.tokens.shape[0], device=state.tokens.device), state.readout]


def first(batch: int, device: torch.device) -> Tensor:
    """Readout at position 0 for every row, `[B]`."""
    return torch.zeros(batch, dtype=torch.long, device=device)


def real(keep: Tensor | None) -> Tensor | None:
    """None instead of a mask that hides nothing: decided here, once, because it synchronises a GPU."""
    return None if keep is None or bool(keep.all()) else keep.bool()


def begin_alike(ids: Tensor, keep: Tensor | None, readout: Tensor | None) -> int:
    """How many leading ids are real and the same in all texts, up to the first pooled one."""
    if readout is None:
        return 0
    same = (ids == ids[:1]).all(dim=0)
    if keep is not None:
        same &= keep.bool().all(dim=0)
    return int(torch.minimum(same.long().cumprod(dim=0).sum(), readout.min()))


def content_of(inputs: TextInputs, start: int, end: Tensor) -> Tensor:
    """Which ids are neither special nor padding, `[B, L]`: from `start` up to `end` `[B]`, unless the inputs say it."""
    if inputs.sentences is not None:
        return inputs.sentences >= 0
    place = torch.arange(inputs.ids.shape[1], device=inputs.ids.device)
    content = (place >= start) & (place < end[:, None])
    return content if inputs.keep is None else content & inputs.keep.bool()


def last_real(inputs: TextInputs) -> Tensor:
    """Position of the last id that is no padding, `[B]`."""
    if inputs.keep is None:
        return torch.full((len(inputs),), inputs.ids.shape[1] - 1, device=inputs.ids.device)
    return inputs.keep.long().cumsum(dim=1).argmax(dim=1)


def same_end(ids: Tensor) -> Tensor:
    """Where the run of equal ids begins that a text of fixed length ends with, `[B]`: end of text and padding."""
    return ids.shape[1] - (ids == ids[:, -1:]).flip(1).long().cumprod(dim=1).sum(dim=1)


def no_words(tower: object, words: Words | None) -> None:
    """Refuse prompt learning on an image tower."""
    if words is not None:
        raise ValueError(f"{type(tower).__name__}.embed: `words` edits text prompts; an image tower has none")


def fit_context(tower: object, state: TokenState, limit: int) -> TokenState:
    """Cut positions behind `limit`, which must be padding: neither the pooled one nor inserted ones."""
    if state.length <= limit:
        return state
    last_span = max((span.stop for span in state.spans.values()), default=0)
    last_read = 0 if state.readout is None else int(state.readout.max()) + 1
    # Without a mask every token counts as real, except behind the end of text that a causal tower reads.
    lost = not state.causal if state.keep is None else bool(state.keep[:, limit:].any())
    if max(last_span, last_read) > limit or lost:
        added = sum(span.stop - span.start for span in state.spans.values())
        raise ValueError(
            f"{type(tower).__name__}: a text needs {state.length} positions ({added} of them inserted) and "
            f"the model has {limit}; shorten the prompt template or insert fewer vectors"
        )
    return cut(state, limit)


def cut(state: TokenState, limit: int) -> TokenState:
    """The first `limit` positions."""
    keep = None if state.keep is None else state.keep[:, :limit]
    return replace(state, tokens=state.tokens[:, :limit], keep=keep, _mask=None)


def fit_fixed(tower: object, state: TokenState, ids: Tensor, limit: int) -> TokenState:
    """Bring a text that is read at its last position, padding included, back to `limit` positions.

    Inserted vectors take the place of surplus padding at the end, so that the sequence keeps the length
    that the model was trained with. How much is surplus shows in the ids: a row ends with equal ones, of
    which one stays.
    """
    added = state.length - limit
    if added > 0:
        surplus = added < ids.shape[1] and bool((ids[:, -(added + 1) :] == ids[:, -1:]).all())
        last_span = max((span.stop for span in state.spans.values()), default=0)
        if not surplus or last_span > limit:
            raise ValueError(
                f"{type(tower).__name__}: {added} inserted vectors need as many padding positions, and a "
                f"text leaves fewer of the {limit}; shorten the prompt template or insert fewer vectors"
            )
        state = cut(state, limit)
    last = torch.full((ids.shape[0],), state.length - 1, dtype=torch.long, device=ids.device)
    return replace(state, readout=last)


def hf_mask(tower: object, state: TokenState, config: Any) -> Tensor | None:
    """The mask for a transformers layer.

    None where nothing is padded and the layer's own `is_causal` says the rest: the library does so too,
    and it is what lets sdpa choose its fast kernel.
    """
    kind = config._attn_implementation
    if kind == "sdpa" and state.keep is None:
        return None
    if kind not in ("eager", "sdpa"):
        raise ValueError(
            f"{type(tower).__name__}: attention implementation {kind!r} takes masks in another form; "
            "use model.set_attn_implementation('sdpa') or 'eager'"
        )
    return state.mask()


def lora_names(tower: object, table: Parts, blocks: Sequence[str], parts: Collection[str]) -> list[str]:
    """Full layer names for `parts`, block by block.

    Args:
        tower: Named in errors.
        table: Layers of one block by part.
        blocks: Full name of every block inside the library's model.
        parts: What is asked for, of LORA_PARTS.
    """
    name = type(tower).__name__
    wanted = set(parts)
    offered = "; ".join("+".join(group) for group in table)
    known = {part for group in table for part in group}
    if not wanted or not wanted <= known:
        raise ValueError(
            f"{name}.lora_targets: {sorted(wanted - known) or 'nothing'} asked for; this tower has {offered} "
            f"(names are of {', '.join(LORA_PARTS)})"
        )
    chosen: list[str] = []
    for group, layers in table.items():
        if not wanted & set(group):
            continue
        if not wanted >= set(group):
            raise ValueError(
                f"{name}.lora_targets: {'+'.join(group)} are one fused layer ({', '.join(layers)}) here, so "
                f"ask for all of them or none, not {sorted(wanted & set(group))}; this tower has {offered}"
            )
        chosen.extend(layers)
    return [f"{block}.{layer}" for block in blocks for layer in chosen]


def prefixed(path: str, blocks: str, depth: int) -> list[str]:
    """Full names of all blocks: `path.blocks.0` and so on; `path` may be empty."""
    return [f"{path}.{blocks}.{index}" if path else f"{blocks}.{index}" for index in range(depth)]


def fill(owner: str, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a model all of its tensors; names or shapes that do not fit are an error."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        raise ValueError(f"{owner}: the weights do not fit; missing {missing[:3]}, unknown {unknown[:3]}")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"{owner}: {name} of the weights is {tuple(tensors[name].shape)}, expected {shape}")
    model.load_state_dict(dict(tensors))


def output_size(projection: nn.Module, width: int) -> int:
    """Size of a projected feature, asked of the projection itself."""
    weight = next(projection.parameters(), None)
    probe = torch.zeros(1, width) if weight is None else weight.new_zeros(1, width)
    with torch.no_grad():
        return projection(probe).shape[-1]
