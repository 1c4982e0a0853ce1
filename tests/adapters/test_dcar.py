"""DCAR is our own reading, so what is tested is what it says of itself: planted structure is found."""

import math

import pytest
import torch
from adapters.toys import CLASSES, attached, scores, texts, toy
from torch.nn.functional import cross_entropy, normalize

from domainvl.adapters import DCAR
from domainvl.objectives import CategoryCrossEntropy, Context

CONTEXT = Context(torch.tensor(1.0), 0)


def planted(share_of_signal, count=400, classes=3, words=5, width=24):
    """Word l of class c points at a direction that images of c carry in proportion to share_of_signal[c][l]."""
    draw = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(width, classes * words, generator=draw))[0].T.reshape(classes, words, -1)
    labels = torch.eye(classes)[torch.arange(count) % classes]
    signal = torch.einsum("nc,cl,cld->nd", labels, torch.tensor(share_of_signal), directions)
    images = signal + 0.2 * torch.randn(count, width, generator=draw)
    return images, labels, directions


def test_weights_follow_planted_informative_attributes():
    strength = [[0.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.3, 1.0], [0.5, 0.0, 1.0, 0.0, 0.0]]
    images, labels, words = planted(strength)
    adapter = DCAR()
    adapter.take_support(images[None], labels)
    found = adapter.weights(words, torch.ones(3, 5, dtype=torch.bool))
    torch.testing.assert_close(found.sum(1), torch.ones(3))
    for row, planted_row in zip(found, torch.tensor(strength), strict=True):
        order = planted_row.argsort(descending=True)[: int((planted_row > 0).sum())]
        assert row.topk(len(order)).indices.tolist() == order.tolist()
        assert float(row[planted_row == 0].max()) < 0.5 * float(row[order[-1]])


def test_without_information_all_words_weigh_about_the_same():
    images, labels, words = planted([[0.0] * 5] * 3, count=4000)
    adapter = DCAR(temperature=1.0)
    adapter.take_support(images[None], labels)
    found = adapter.weights(words, torch.ones(3, 5, dtype=torch.bool))
    torch.testing.assert_close(found, torch.full((3, 5), 0.2), rtol=0, atol=0.01)


def test_information_is_that_of_normal_variables():
    """Two words with a known correlation: weights are softmax(-1/2 log(1 - rho^2) / temperature)."""
    images, labels, words = planted([[1.0, 0.4], [0.2, 0.6]], classes=2, words=2)
    adapter = DCAR(temperature=0.3)
    adapter.take_support(images[None], labels)
    found = adapter.weights(words, torch.ones(2, 2, dtype=torch.bool))
    for c in range(2):
        response = normalize(images, dim=-1) @ words[c].T
        rho = torch.corrcoef(torch.cat([response, labels[:, c : c + 1]], dim=1).T)[-1, :2].clamp_min(0)
        expected = (-0.5 * torch.log(1 - rho**2) / 0.3).softmax(0)
        torch.testing.assert_close(found[c], expected, rtol=1e-4, atol=1e-5)


def test_words_that_speak_against_their_class_get_nothing_extra():
    images, labels, words = planted([[-1.0, 0.0], [0.0, 1.0]], classes=2, words=2)
    adapter = DCAR(temperature=1.0)
    adapter.take_support(images[None], labels)
    found = adapter.weights(words, torch.ones(2, 2, dtype=torch.bool))
    assert float(found[0, 0]) <= float(found[0, 1])


@pytest.mark.parametrize("where", ["hf_clip", "openclip", "timm_and_bert"])
def test_only_words_of_the_text_are_weighed(where):
    backbone = toy(where)
    adapter = attached(DCAR(text_tokens=3), backbone)
    seen = {}
    inner = adapter.weights

    def weights(words, real):
        seen["real"], seen["weights"] = real, inner(words, real)
        return seen["weights"]

    adapter.weights = weights
    adapter.encode("text", backbone.text, texts(adapter, backbone))
    # "healthy lung.", "pneumonia.", "a large pleural effusion.": two to five words with the full stop. BERT also
    # reads the end mark, as a word like others.
    extra = int(where == "timm_and_bert")
    assert seen["real"].sum(1).tolist() == [3 + extra, 2 + extra, 5 + extra]
    assert not seen["weights"][~seen["real"]].any()


def test_share_zero_is_dual_prompting_alone():
    backbone = toy("hf_clip")
    adapter = attached(DCAR(share=0.0), backbone)
    assert "text.pooled" in scores(adapter, backbone)


def test_one_text_for_each_class_is_asked_for():
    backbone = toy("hf_clip")
    adapter = attached(DCAR(), backbone)
    with pytest.raises(ValueError, match="3 classes have 4 texts"):
        adapter.encode("text", backbone.text, texts(adapter, backbone, [*CLASSES, "one more"]))


def test_a_saved_support_fills_an_empty_one():
    backbone = toy("hf_clip")
    full, empty = attached(DCAR(), backbone), DCAR()
    empty.attach(backbone)
    with pytest.raises(RuntimeError, match="take_support"):
        scores(empty, backbone)
    with pytest.raises(ValueError, match="do not fit"):
        empty.load_tensors(full.tensors() | {"labels": torch.zeros(2, 3)})
    empty.load_tensors(full.tensors())
    assert torch.equal(scores(empty, backbone)["image.logits"], scores(full, backbone)["image.logits"])


def loss(features, label, **settings):
    return CategoryCrossEntropy(**settings)(features, {"label": label}, CONTEXT)["loss"]


def test_equally_similar_categories_give_plain_cross_entropy():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    label = torch.tensor([0, 1, 2, 1])
    value = loss({"image.logits": logits, "frozen/text.pooled": torch.eye(3)}, label)
    torch.testing.assert_close(value, cross_entropy(logits, label))


def test_similar_categories_weigh_as_the_formula_says():
    text = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    logits = torch.tensor([[2.0, 1.0, 0.5]])
    value = loss({"image.logits": logits, "frozen/text.pooled": text}, torch.tensor([0]), temperature=0.5)
    near, far = math.exp(0.6 / 0.5), math.exp(0.0)
    weights = [2 * near / (near + far), 2 * far / (near + far)]
    total = math.exp(2.0) + weights[0] * math.exp(1.0) + weights[1] * math.exp(0.5)
    assert float(value) == pytest.approx(-math.log(math.exp(2.0) / total), rel=1e-5)


def test_category_cross_entropy_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="multi-label"):
        loss({"image.logits": torch.zeros(2, 3), "frozen/text.pooled": torch.eye(3)}, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="temperature"):
        CategoryCrossEntropy(temperature=0.0)
