"""The stack equals its formula, on language models too, for pooled features and for words."""

from __future__ import annotations

import library_toys
import pytest
import torch
import torch.nn.functional as F
from adapters.toys import Toy, attached, moved, pictures, toy
from torch import Tensor, nn

from domainvl.adapters import Compose, JointStack, LoRA
from domainvl.features import TextInputs
from domainvl.towers import HFLanguageModel, TimmViT

KEEP = torch.arange(7) < torch.tensor([7, 4])[:, None]
INPUTS = TextInputs(torch.randint(5, 90, (2, 7), generator=torch.Generator().manual_seed(1)), KEEP, pooled=KEEP)


def with_language_model() -> Toy:
    """A projection in front of another size than the joint space would be an error if it were used."""
    image = TimmViT(library_toys.timm_model("test_vit", img_size=32), nn.Linear(64, 24), "image")
    text = HFLanguageModel(library_toys.llm("Llama"), projection=nn.Linear(48, 7), path="text")
    library = nn.ModuleDict({"image": image.model, "text": text.model})
    return Toy(library, image, text)


def formula(weights: dict[str, Tensor], pooled: Tensor, blocks: int, normalise: bool) -> Tensor:
    x = pooled / pooled.norm(dim=-1, keepdim=True) if normalise else pooled

    def normed(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    for index in range(blocks):
        name = f"stack.{index}"
        hidden = normed(x, f"{name}.norm") @ weights[f"{name}.up.weight"].T + weights[f"{name}.up.bias"]
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        x = x + hidden @ weights[f"{name}.down.weight"].T + weights[f"{name}.down.bias"]
    last = f"stack.{blocks + 1}"
    return normed(x, f"stack.{blocks}") @ weights[f"{last}.weight"].T + weights[f"{last}.bias"]


@pytest.mark.parametrize(("blocks", "normalise"), [(4, True), (2, False), (0, True)])
def test_features_and_words_equal_the_formula(blocks, normalise):
    torch.manual_seed(0)
    backbone = with_language_model()
    adapter = JointStack(blocks=blocks, normalise=normalise)
    adapter.attach(backbone)
    moved(adapter)
    tower = backbone.text
    state = tower.run(tower.embed(INPUTS))
    weights = dict(adapter.named_parameters())
    found = adapter.encode("text", tower, INPUTS)["text.pooled"]
    expected = formula(weights, tower.pool(state), blocks, normalise)
    assert found.shape == (2, 24)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
    tokens, mask = adapter.locals("text", tower, state)
    assert torch.equal(mask, KEEP)
    expected = formula(weights, tower.norm(state.tokens), blocks, normalise)
    torch.testing.assert_close(tokens[mask], expected[mask], atol=2e-5, rtol=1e-5)
    wanted = formula(weights, tower.pool(state), blocks, normalise).square().sum()
    for ours, theirs in zip(
        torch.autograd.grad(found.square().sum(), list(weights.values())),
        torch.autograd.grad(wanted, list(weights.values())),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_images_stay_as_they_are():
    backbone = toy("hf_clip")
    adapter = attached(JointStack(), backbone)
    assert torch.equal(adapter.encode("image", backbone.image, pictures())["image.pooled"], backbone.image(pictures()))
    state = backbone.image.run(backbone.image.embed(pictures()))
    assert torch.equal(adapter.locals("image", backbone.image, state)[0], backbone.image.locals(state)[0])


def test_words_of_a_composition_go_through_the_stack():
    torch.manual_seed(0)
    backbone = with_language_model()
    backbone.requires_grad_(False)
    adapter = Compose([LoRA(parts=["q"], sides=["text"], dropout=0.0), JointStack(blocks=1)])
    adapter.attach(backbone)
    state = backbone.text.run(backbone.text.embed(INPUTS))
    tokens = adapter.locals("text", backbone.text, state)[0]
    expected = adapter.parts[1].locals("text", backbone.text, state)[0]
    assert tokens.shape == (2, 7, 24)
    assert torch.equal(tokens, expected)
    adapter.encode("text", backbone.text, INPUTS)["text.pooled"].square().sum().backward()
    assert all(parameter.grad is not None for parameter in adapter.parameters())


def test_dropout_works_in_training_alone():
    backbone = toy("hf_clip")
    adapter = JointStack(dropout=0.5)
    adapter.attach(backbone)
    features = torch.randn(3, backbone.text.width)
    assert torch.equal(adapter.eval()._joint(features), adapter._joint(features))
    assert not torch.equal(adapter.train()._joint(features), adapter._joint(features))
    assert F.cosine_similarity(adapter._joint(features), adapter.eval()._joint(features)).min() < 1 - 1e-4
