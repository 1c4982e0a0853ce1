"""Language models as text towers: masks, padding, what is pooled, latent attention."""

from __future__ import annotations

import library_toys as library
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel

from domainvl.features import TextInputs
from domainvl.towers import HFLanguageModel, LatentAttention

KINDS = ["Llama", "Mistral", "Qwen2", "Qwen3", "Gemma2"]
LENGTHS = torch.tensor([9, 4, 6])[:, None]
PLACE = torch.arange(9)
PADDED = {
    "not": torch.ones(3, 9, dtype=torch.bool),
    "right": PLACE < LENGTHS,
    "left": PLACE >= 9 - LENGTHS,
}
IDS = torch.randint(5, 90, (3, 9), generator=torch.Generator().manual_seed(6))


def tokens_of(tower: HFLanguageModel, inputs: TextInputs) -> torch.Tensor:
    return tower.norm(tower.run(tower.embed(inputs)).tokens)


@pytest.mark.parametrize("side", PADDED)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_masks_are_the_library_s_own(kind, side):
    model, keep = library.llm(kind), PADDED[side]
    inputs = TextInputs(IDS, keep)
    causal = tokens_of(HFLanguageModel(model, causal=True), inputs)
    theirs = model(IDS, attention_mask=keep.long()).last_hidden_state
    assert torch.equal(causal[keep], theirs[keep])
    both_ways = tokens_of(HFLanguageModel(model), inputs)
    visible = keep[:, None, None, :].expand(3, 1, 9, 9)
    mask = torch.zeros(visible.shape).masked_fill(~visible, -torch.inf)
    full = {"full_attention": mask, "sliding_attention": mask} if kind == "Gemma2" else mask
    theirs = model(IDS, attention_mask=full).last_hidden_state
    assert torch.equal(both_ways[keep], theirs[keep])
    assert (causal - both_ways)[keep].abs().max() > 1e-3


@pytest.mark.parametrize("pooling", ["mean", "last", "latent"])
@torch.no_grad()
def test_the_side_of_the_padding_does_not_matter(pooling):
    latent = library.shuffled(LatentAttention(48, 6, 4)) if pooling == "latent" else None
    tower = HFLanguageModel(library.llm("Qwen3"), pooling, latent=latent)
    right = torch.where(PADDED["right"], IDS, library.PAD)
    left = torch.stack([row.roll(9 - int(length)) for row, length in zip(right, LENGTHS, strict=True)])
    features = [tower(TextInputs(ids, PADDED[side])) for side, ids in (("right", right), ("left", left))]
    # Rotations by other angles round otherwise: 1.5e-6 measured.
    torch.testing.assert_close(*features, atol=1e-5, rtol=0.0)
    alone = torch.cat([tower(TextInputs(row[None, : int(length)])) for row, length in zip(right, LENGTHS, strict=True)])
    torch.testing.assert_close(features[0], alone, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_who_sees_the_last_word(causal):
    tower = HFLanguageModel(library.llm("Llama"), causal=causal)
    changed = IDS.clone()
    changed[:, -1] = 95
    moved = (tokens_of(tower, TextInputs(IDS)) - tokens_of(tower, TextInputs(changed))).abs().amax(dim=(0, 2))
    assert moved[-1] > 1e-3
    assert (moved[:-1].max() == 0) is causal or bool((moved[:-1] > 1e-5).all()) is not causal


@torch.no_grad()
def test_instructions_are_read_and_not_pooled():
    tower = HFLanguageModel(library.llm("Llama"))
    said = PADDED["right"] & (PLACE >= 3)
    inputs = TextInputs(IDS, PADDED["right"], pooled=said)
    tokens = tokens_of(tower, inputs)
    expected = torch.stack([row[spoken].mean(0) for row, spoken in zip(tokens, said, strict=True)])
    torch.testing.assert_close(tower(inputs), expected, atol=1e-6, rtol=0.0)
    assert tower.embed(inputs).prefix == 3
    assert tower.embed(TextInputs(IDS, PADDED["left"], pooled=PADDED["left"])).prefix == 0
    assert torch.equal(tower.locals(tower.run(tower.embed(inputs)))[1], said)
    other = IDS.clone()
    other[:, 1] = 96
    assert (tower(TextInputs(other, PADDED["right"], pooled=said)) - expected).abs().max() > 1e-3


@torch.no_grad()
def test_a_text_of_nothing_is_zero():
    tower = HFLanguageModel(library.llm("Llama"))
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    assert not tower(TextInputs(IDS[:2, :3], torch.ones_like(nothing), pooled=nothing)).any()
    assert torch.isfinite(tower(TextInputs(IDS[:2, :3], nothing, pooled=nothing))).all()


def test_latent_attention_is_each_sample_by_itself():
    """As the paper says it: the tokens of one text ask, the dictionary answers, the mean of the MLP is the feature."""
    module = LatentAttention(16, latents=5, heads=2)
    tower = HFLanguageModel(
        library.shuffled(LlamaModel(LlamaConfig(**{**library.LLM, "hidden_size": 16}))),
        "latent",
        latent=module,
    )
    inputs = TextInputs(IDS, PADDED["right"])
    found = tower(inputs)
    weights = dict(module.named_parameters())
    expected = []
    for tokens, keep in zip(tokens_of(tower, inputs), PADDED["right"], strict=True):
        query, key, value = (
            (x @ w.T + b).unflatten(-1, (2, 8)).transpose(0, 1)
            for x, w, b in zip(
                (tokens[keep], module.latents, module.latents),
                weights["multihead_attn.in_proj_weight"].chunk(3),
                weights["multihead_attn.in_proj_bias"].chunk(3),
                strict=True,
            )
        )
        shares = (query @ key.transpose(1, 2) / 8**0.5).softmax(dim=-1)
        heard = (shares @ value).transpose(0, 1).flatten(1)
        expected.append(module.mlp(module.multihead_attn.out_proj(heard)).mean(dim=0))
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=0.0)
    grads = [torch.autograd.grad(x.square().sum(), module.latents, retain_graph=True)[0] for x in (found, expected[0])]
    assert grads[0].abs().max() > 0
    assert set(weights) == {
        "latents",
        "multihead_attn.in_proj_weight",
        "multihead_attn.in_proj_bias",
        "multihead_attn.out_proj.weight",
        "multihead_attn.out_proj.bias",
        "mlp.0.weight",
        "mlp.0.bias",
        "mlp.2.weight",
        "mlp.2.bias",
    }


def test_windows_bound_the_context():
    model = library.llm("Mistral")
    model.config.sliding_window = 8
    tower = HFLanguageModel(model)
    assert tower.context == 8
    with pytest.raises(ValueError, match="needs 9 positions"):
        tower.embed(TextInputs(IDS, pooled=torch.ones_like(IDS, dtype=torch.bool)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: HFLanguageModel(library.bert()), "model_type 'bert' is not supported"),
        (lambda: HFLanguageModel(library.llm("Llama"), "cls"), "not one of mean, last, latent"),
        (lambda: HFLanguageModel(library.llm("Llama"), "latent"), "needs a LatentAttention"),
        (lambda: HFLanguageModel(library.llm("Llama"), latent=LatentAttention(48, 4, 4)), "the others take none"),
        (lambda: LatentAttention(20), "width 20 is no multiple of heads=8"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_frozen_blocks_run_in_bf16():
    tower = HFLanguageModel(library.llm("Llama"), projection=nn.Linear(48, 8))
    inputs = TextInputs(IDS, PADDED["right"])
    exact = tower(inputs)
    tower.cast_blocks(torch.bfloat16)
    rough = tower(inputs)
    assert rough.dtype == torch.float32
    assert nn.functional.cosine_similarity(rough, exact).min() > 0.99
