"""Phrases and regions: the formula, a planted region, padding, repeated sentences, one part of the texts at a time."""

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from domainvl.objectives import Context, PhraseRegions, _scored
from domainvl.objectives.targets import TextSimilarity

CONTEXT = Context(scale=torch.tensor(7.0), epoch=0)


def step(images=6, regions=9, width=16):
    draw = torch.Generator().manual_seed(0)
    return {
        "image.tokens": torch.randn(images, regions, width, generator=draw),
        "image.mask": torch.ones(images, regions, dtype=torch.bool),
        "image.pooled": torch.randn(images, width, generator=draw),
        "text.pooled": torch.randn(images, width, generator=draw),
    }


@pytest.mark.parametrize("at_once", [_scored.AT_ONCE, 1])
@pytest.mark.parametrize("sharpness", [2.0, 30.0])
def test_formula(sharpness, at_once, monkeypatch):
    """Whole and text by text, forward and gradient."""
    monkeypatch.setattr(_scored, "AT_ONCE", at_once)
    features = step()
    features["image.mask"][0, 5:] = False
    leaves = [features[key].requires_grad_() for key in ("image.tokens", "text.pooled")]
    rows = []
    for tokens, mask in zip(leaves[0], features["image.mask"], strict=True):
        cosines = normalize(tokens[mask], dim=1) @ normalize(leaves[1], dim=1).T
        rows.append((sharpness * cosines).exp().mean(dim=0).log() / sharpness)
    z, own = 7 * torch.stack(rows), torch.arange(6)
    expected = (cross_entropy(z, own) + cross_entropy(z.T, own)) / 2
    loss = PhraseRegions(sharpness=sharpness)(features, {}, CONTEXT)["loss"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for found, wanted in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_a_phrase_finds_its_region():
    """The means of all images are nought: only a single region says which text is whose."""
    features = step(images=16)
    regions = features["image.tokens"]
    regions -= regions.mean(dim=1, keepdim=True)
    features["text.pooled"] = 3 * regions[:, 4]
    assert PhraseRegions()(features, {}, CONTEXT)["accuracy"] == 1
    assert PhraseRegions(sharpness=1e-3)(features, {}, CONTEXT)["accuracy"] < 0.7


def test_sentences_that_say_the_same_are_no_negatives():
    features = step()
    features["text.pooled"][1] = features["text.pooled"][0]
    policy = TextSimilarity(0.999, text="text.pooled")
    objective = PhraseRegions(targets=[policy])
    z = 7 * objective.similarity(features["image.tokens"], features["image.mask"], features["text.pooled"])
    z[0, 1] = z[1, 0] = -torch.inf
    own = torch.arange(6)
    expected = (cross_entropy(z, own) + cross_entropy(z.T, own)) / 2
    assert objective(features, {}, CONTEXT)["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("wrong", [{"sharpness": 0.0}, {"text": "text.tokens"}, {"image": "image.pooled"}])
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=r"PhraseRegions: .*got"):
        PhraseRegions(**wrong)
