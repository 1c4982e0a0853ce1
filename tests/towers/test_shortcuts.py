"""Shortcuts through a tower say what its blocks say: values and gradients, on every toy."""

from __future__ import annotations

from dataclasses import replace

import library_toys as library
import pytest
import torch
from torch import Tensor, nn
from tower_toys import TEXTS, TOYS, Toy, toy

from domainvl.features import TextInputs
from domainvl.tokens import TokenState
from domainvl.towers import Tower
from domainvl.towers.onednn import available
from domainvl.towers.opened import Opened

# Relative L2 in fp32; measured 3e-7 for values and 1.5e-6 for gradients.
VALUES, GRADIENTS = 2e-6, 1e-5

CLOSED = {
    "timm_dinov3": "rotary positions",
    "timm_eva02": "rotary positions",
    "openclip_image_custom_block": "its own attention",
    "llm_text_llama_mean": "rotary positions",
    "llm_text_mistral_causal": "rotary positions",
    "llm_text_qwen2_last": "rotary positions",
    "llm_text_qwen3_latent": "rotary positions",
    "llm_text_gemma2_mean": "rotary positions",
    "coca_text": "padding that hides the class token from itself",
    "monai_vit": "MONAI's attention",
    "monai_vit_mean": "MONAI's attention",
    "text_longformer": "a window",
    "slices_timm": "in chunks",
}
POOLED_OTHERWISE = [name for name in TOYS if toy(name).tower.embed(toy(name).inputs).readout is None]


def prompts(one: Toy) -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(5)
    return [nn.Parameter(torch.randn(2, one.tower.width, generator=draw)) for _ in range(one.tower.depth - 1)]


def features(one: Toy, inputs: object, new: list[nn.Parameter], *, rows: bool = False, reads=None) -> list[Tensor]:
    """The pooled feature and the inserted tokens, with new ones in front of every block but the first."""

    def edit(index: int, state: TokenState) -> TokenState:
        if index == 0:
            return state
        if index == 1:
            return state.insert(new[0], at=state.prefix, name="prompt")
        return state.overwrite(0.5 * new[index - 1] + 0.5 * state.take("prompt"), "prompt")

    tower = one.tower
    state = tower.run(tower.embed(inputs), edit, rows=rows, reads=reads)
    return [tower.project(tower.pool(state)), state.take("prompt") if "prompt" in state.spans else state.tokens[:, :0]]


def compared(one: Toy, inputs: object, spans: bool = True, **shortcut: object) -> None:
    found = []
    for given in ({}, shortcut):
        new = prompts(one)
        values = features(one, inputs, new, **given)[: 1 + spans]
        sum(value.square().sum() for value in values).backward()
        found.append((values, [parameter.grad for parameter in new]))
    for (a, b), bound in zip(zip(*found, strict=True), (VALUES, GRADIENTS), strict=True):
        for plain, quick in zip(a, b, strict=True):
            if plain is not None:
                assert float((quick - plain).detach().norm() / plain.detach().norm()) < bound


def inputs_of(one: Toy) -> list[object]:
    return [one.inputs] if one.padded is None else [one.inputs, one.padded]


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("reads", [("prompt",), ()], ids=["span", "pooled"])
def test_only_what_is_read(name, reads):
    for inputs in inputs_of(toy(name)):
        compared(toy(name), inputs, spans=bool(reads), reads=reads)


def alike(one: Toy) -> TextInputs:
    """The toy's padded texts with the same words at the start."""
    ids = one.padded.ids.clone()
    ids[:, 1:3] = ids[:1, 1:3]
    return replace(one.padded, ids=ids)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("reads", [None, ()], ids=["all", "pooled"])
def test_rows_that_begin_alike(name, reads):
    one = toy(name)
    compared(one, alike(one), spans=reads is None, rows=True, reads=reads)


@pytest.mark.parametrize("name", TOYS)
def test_a_tower_opens_or_says_that_it_does_not(name):
    one = toy(name)
    assert (one.tower.opened(0) is None) == (name in CLOSED)
    assert len(one.tower.layers) == one.tower.depth


def noting(original, shapes: list[tuple[int, int]]):
    def read(self, tokens, *rest):
        shape = tuple(tokens.shape[:2])
        # One of the two may call the other.
        if shapes[-1:] != [shape]:
            shapes.append(shape)
        return original(self, tokens, *rest)

    return read


def asked(monkeypatch, one: Toy, inputs: object, **shortcut: object) -> list[tuple[int, int]]:
    """Rows and tokens that went through a block opened."""
    shapes: list[tuple[int, int]] = []
    for kind in Opened.__subclasses__():
        for method in ("read", "read_few"):
            monkeypatch.setattr(kind, method, noting(getattr(kind, method), shapes))
    one.tower.run(one.tower.embed(inputs), **shortcut)
    return shapes


@pytest.mark.parametrize("name", [name for name in TOYS if name not in CLOSED])
def test_the_last_block_computes_what_is_read(name, monkeypatch):
    one = toy(name)
    shapes = asked(monkeypatch, one, one.inputs, reads=())
    assert shapes == ([] if name in POOLED_OTHERWISE else [(len(one.tower.embed(one.inputs).tokens), 1)])


@pytest.mark.parametrize("name", ["hf_clip_text", "hf_clip_text_eager", "openclip_text"])
def test_the_common_beginning_runs_once(name, monkeypatch):
    one = toy(name)
    inputs = alike(one)
    rows, length = inputs.ids.shape
    # Start token and two words; the rows' own tokens see them.
    expected = [(rows, length - 3), (1, 3)]
    assert asked(monkeypatch, one, inputs, rows=True) == expected * one.tower.depth
    shapes = asked(monkeypatch, one, inputs, rows=True, reads=())
    assert shapes == expected * (one.tower.depth - 1) + [(rows, 1)]


@pytest.mark.parametrize("name", [name for name in TEXTS if "clip_text" not in name or name in ("coca_text",)])
def test_what_is_not_causal_does_not_share(name, monkeypatch):
    one = toy(name)
    assert asked(monkeypatch, one, alike(one), rows=True) == []


def test_rows_part_where_vectors_differ():
    one = toy("hf_clip_text")
    own = torch.randn(3, 2, one.tower.width)
    before = one.tower.embed(alike(one))
    assert before.shared == 3
    assert before.insert(own, at=1, name="own").shared == 1
    assert before.insert(own[0], at=1, name="all").shared == 5
    assert before.insert(own[0], at=3, name="all").shared == 5
    assert before.insert(own[0], at=4, name="late").shared == 3
    assert before.insert(own[0], at=1, name="all").overwrite(own, "all").shared == 1
    assert before.insert(own[0], at=1, name="all").original().shared == 0


def test_texts_that_are_equal_stay_in_front_of_their_end():
    one = toy("hf_clip_text")
    ids = one.inputs.ids[:1].expand(2, -1)
    state = one.tower.embed(TextInputs(ids))
    assert state.shared == int(state.readout[0]) == ids.shape[1] - 1
    compared(one, TextInputs(ids), rows=True)


def test_recomputed_blocks_take_no_shortcut(monkeypatch):
    one = toy("hf_clip_text")
    monkeypatch.setattr(one.tower, "checkpointing", True)
    assert asked(monkeypatch, one, alike(one), rows=True, reads=()) == []
    compared(one, alike(one), rows=True, reads=None)


@pytest.mark.skipif(not available(), reason="this build of torch has no oneDNN")
@pytest.mark.parametrize("name", TOYS)
def test_onednn_multiplies_alike(name, monkeypatch):
    one = toy(name)
    new = prompts(one)
    features(one, one.inputs, new)[0].square().sum().backward()
    plain = [parameter.grad.clone() for parameter in new]
    value = features(one, one.inputs, new)[0]
    monkeypatch.setattr(one.tower, "onednn", True)
    for parameter in new:
        parameter.grad = None
    quick = features(one, one.inputs, new)[0]
    quick.square().sum().backward()
    assert float((quick - value).detach().norm() / value.detach().norm()) < VALUES
    for parameter, grad in zip(new, plain, strict=True):
        assert float((parameter.grad - grad).norm() / grad.norm()) < GRADIENTS


def test_onednn_is_used_and_leaves_learned_layers_alone(monkeypatch):
    from domainvl.towers import onednn

    seen: list[bool] = []
    original = onednn._Linear.apply
    monkeypatch.setattr(onednn._Linear, "apply", lambda *args: seen.append(args[1].requires_grad) or original(*args))
    with onednn.OneDnn():
        for learned in (False, True):
            layer = nn.Linear(4, 4).requires_grad_(learned)
            layer(torch.randn(2, 4))
    assert seen == [False]


@pytest.mark.parametrize("name", [name for name in TOYS if not name.endswith("eager")])
def test_blocks_in_bf16_end_in_fp32(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one = TOYS[name]()
    tower: Tower = one.tower
    exact = tower(one.inputs)
    new = prompts(one)
    tower.cast_blocks(torch.bfloat16)
    assert all(p.dtype == torch.bfloat16 for layer in tower.layers for p in layer.parameters())
    rough = tower(one.inputs)
    assert rough.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(rough, exact, dim=-1).min() > 0.99
    prefix = tower.run(tower.embed(one.inputs), stop=1)
    assert prefix.tokens.dtype == torch.bfloat16
    features(one, one.inputs, new, rows=name in TEXTS, reads=())[0].square().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in new)


def test_a_tower_without_blocks_stays_in_fp32():
    import timm

    from domainvl.towers import timm_tower

    tower = timm_tower(library.shuffled(timm.create_model("test_resnet", num_classes=0)))
    with pytest.raises(TypeError, match="TimmCNN has no blocks"):
        tower.cast_blocks(torch.bfloat16)
