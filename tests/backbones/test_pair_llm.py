"""A language model beside an image encoder, through the real loading path: config, shards, tokenizer."""

from __future__ import annotations

import json

import library_toys as library
import pytest
import torch
from checkpoint_toys import TEXTS, pair, pair_llm
from safetensors.torch import load_file, save_file

from domainvl.adapters import LoRA
from domainvl.backbones import Pair
from domainvl.towers import HFLanguageModel, LatentAttention


@torch.no_grad()
@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Qwen2", "Qwen3", "Gemma2"])
def test_what_is_loaded_is_what_was_saved(kind, tmp_path):
    saved = pair_llm(tmp_path, kind)
    backbone = saved.load().requires_grad_(False)
    assert isinstance(backbone.text, HFLanguageModel)
    assert (tmp_path / "llm" / "model.safetensors.index.json").is_file()
    inputs = backbone.tokenize(TEXTS)
    torch.testing.assert_close(backbone.text(inputs), saved.text(inputs), atol=2e-6, rtol=0.0)
    if kind.startswith("Qwen"):
        assert torch.equal(inputs.pooled, inputs.keep)
    else:
        assert inputs.pooled.sum(1).tolist() == [3, 2, 6]


@torch.no_grad()
def test_an_instruction_is_read_and_has_no_words(tmp_path):
    instructed, plain = (pair_llm(tmp_path / name, instruction=name).load() for name in ("no finding", ""))
    inputs, bare = instructed.structured(TEXTS), plain.structured(TEXTS)
    assert inputs.pooled.sum(1).tolist() == bare.pooled.sum(1).tolist() == [3, 2, 6]
    assert torch.equal(inputs.words[:, 3:9], bare.words[:, 1:7])
    assert torch.equal(inputs.sentences >= 0, inputs.pooled)
    assert torch.equal(
        inputs.ids[:, 1:3], instructed.tokenizer(["no finding"] * 3, return_tensors="pt").input_ids[:, 1:3]
    )
    assert instructed.text.embed(inputs).prefix == 3
    assert (instructed.text(inputs) - plain.text(bare)).abs().max() > 1e-4
    empty = plain.tokenize(["", "finding"])
    assert torch.isfinite(plain.text(empty)).all()


@pytest.mark.parametrize("kind", ["Llama", "Qwen3"])
@torch.no_grad()
def test_nothing_but_empty_texts(kind, tmp_path):
    backbone = pair_llm(tmp_path, kind).load()
    found = backbone.structured(["", ""])
    assert (found.words == -1).all()
    assert not found.pooled.any()
    assert torch.isfinite(backbone.text(found)).all()


@torch.no_grad()
def test_latent_attention_comes_with_the_checkpoint_or_from_the_seed(tmp_path):
    saved = pair_llm(tmp_path, pooling="latent", seed=3)
    backbone, again = saved.load(), saved.load()
    assert torch.equal(backbone.text.latent.latents, again.text.latent.latents)
    assert backbone.text.latent.latents.shape == (512, 48)
    assert backbone.spec() == again.spec()
    published = library.shuffled(LatentAttention(48, latents=7))
    path = sorted((tmp_path / "llm").glob("*.safetensors"))[0]
    weights = load_file(path) | {f"latent_attn.{name}": value for name, value in published.state_dict().items()}
    index = json.loads((tmp_path / "llm" / "model.safetensors.index.json").read_text())
    index["weight_map"] |= dict.fromkeys(weights, path.name)
    (tmp_path / "llm" / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file(weights, path, metadata={"format": "pt"})
    found = saved.load()
    for name, value in published.state_dict().items():
        assert torch.equal(found.text.latent.state_dict()[name], value)
    assert found.spec().weights != backbone.spec().weights
    del weights["latent_attn.mlp.0.bias"]
    del index["weight_map"]["latent_attn.mlp.0.bias"]
    (tmp_path / "llm" / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"built otherwise; missing \['mlp.0.bias'\]"):
        saved.load()


@pytest.mark.parametrize(
    "options", [{"pooling": "last"}, {"context": 12}, {"instruction": "no finding"}, {"causal": True}], ids=str
)
def test_how_texts_are_read_is_part_of_the_name(tmp_path, options):
    first = pair_llm(tmp_path).load()
    places = {"image": str(tmp_path / "image"), "text": str(tmp_path / "llm")}
    plain, again, other = (Pair(**places, out_dim=24, **chosen).spec() for chosen in ({}, {}, options))
    assert plain == again == first.spec()
    assert plain.weights == other.weights
    assert plain.reading != other.reading
    assert plain.digest != other.digest


def test_lora_learns_in_the_language_model(tmp_path):
    backbone = pair_llm(tmp_path, "Qwen3").load().requires_grad_(False)
    inputs = backbone.tokenize(TEXTS)
    before = backbone.text(inputs)
    adapter = LoRA(rank=2, parts=["q", "v", "up"], sides=["text"], dropout=0.0)
    adapter.attach(backbone)
    assert len(adapter.factors) == 3 * (2 + 2)
    assert torch.equal(backbone.text(inputs), before)
    backbone.text(inputs).square().sum().backward()
    grads = [p.grad for name, p in adapter.named_parameters() if "/B" in name or ".B." in name]
    assert grads
    assert all(grad.abs().max() > 0 for grad in grads)
    adapter.export(tmp_path, None)
    names = load_file(tmp_path / "adapter_model.safetensors")
    assert "base_model.model.text.layers.0.self_attn.q_proj.lora_A.weight" in names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "cls"}, "pooling 'cls' is not one of mean, last, latent, which a llama takes"),
        ({"instruction": "a chest " * 20}, "the instruction is 42 tokens and a text is cut to context=16"),
    ],
)
def test_options_that_do_not_fit(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        pair_llm(tmp_path, **options)


@pytest.mark.parametrize("options", [{"instruction": "read"}, {"causal": True}])
def test_options_of_language_models_are_refused_for_bert(tmp_path, options):
    pair(tmp_path)
    with pytest.raises(ValueError, match="are for language models"):
        Pair(str(tmp_path / "image"), str(tmp_path / "text"), **options)
