"""Objectives of few-shot classification against closed forms."""

import math

import pytest
import torch

from domainvl.objectives import (
    KDSP,
    SCCM,
    BinaryCrossEntropy,
    ClassCrossEntropy,
    Context,
    FrozenCosine,
    FrozenKL,
    FrozenL1,
)

CONTEXT = Context(scale=torch.tensor(1.0), epoch=0)


def loss(objective, features, batch=None):
    return objective(features, batch or {}, CONTEXT)["loss"]


def test_cross_entropy_at_equal_scores_is_log_of_classes():
    features = {"image.logits": torch.zeros(3, 7)}
    batch = {"label": torch.tensor([0, 3, 6])}
    for smoothing in (0.0, 0.2):
        value = loss(ClassCrossEntropy(label_smoothing=smoothing), features, batch)
        assert value.item() == pytest.approx(math.log(7))


def test_binary_cross_entropy_ignores_what_nobody_labelled():
    logits = torch.tensor([[2.0, 50.0], [-1.0, -50.0]], requires_grad=True)
    batch = {
        "label": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        "valid": torch.tensor([[True, False], [True, False]]),
    }
    value = loss(BinaryCrossEntropy(), {"image.logits": logits}, batch)
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2
    assert value.item() == pytest.approx(expected, rel=1e-6)
    value.backward()
    assert torch.equal(logits.grad[:, 1], torch.zeros(2))
    assert (logits.grad[:, 0] != 0).all()


def test_binary_cross_entropy_without_any_label_is_zero_with_a_gradient():
    logits = torch.ones(2, 2, requires_grad=True)
    batch = {"label": torch.full((2, 2), float("nan")), "valid": torch.zeros(2, 2, dtype=torch.bool)}
    value = loss(BinaryCrossEntropy(balance=True), {"image.logits": logits}, batch)
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros(2, 2))


def test_balance_gives_both_labels_the_same_weight():
    logits = torch.zeros(4, 1, requires_grad=True)
    batch = {"label": torch.tensor([[1.0], [0.0], [0.0], [0.0]]), "valid": torch.ones(4, 1, dtype=torch.bool)}
    loss(BinaryCrossEntropy(balance=True), {"image.logits": logits}, batch).backward()
    assert logits.grad[0].item() == pytest.approx(-logits.grad[1:].sum().item())


def test_frozen_l1_is_the_mean_over_components_of_unit_vectors():
    adapted = torch.tensor([[3.0, 4.0], [0.0, -2.0]], requires_grad=True)
    frozen = torch.tensor([[1.0, 0.0], [0.0, -7.0]], requires_grad=True)
    objective = FrozenL1("image")
    assert objective.needs == {"image.pooled", "frozen/image.pooled"}
    value = loss(objective, {"image.pooled": adapted, "frozen/image.pooled": frozen})
    assert value.item() == pytest.approx((0.4 + 0.8) / 4)
    value.backward()
    assert frozen.grad is None


@pytest.mark.parametrize("multilabel", [False, True])
def test_frozen_kl_is_the_closed_form(multilabel):
    scores, frozen = (torch.randn(4, 3, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    scores.requires_grad_()
    frozen.requires_grad_()
    batch = {"label": torch.zeros(4, 3) if multilabel else torch.zeros(4, dtype=torch.long)}
    value = loss(FrozenKL(), {"image.logits": scores, "frozen/image.logits": frozen}, batch)
    if multilabel:
        p, q = frozen.detach().sigmoid(), scores.detach().sigmoid()
        expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    else:
        p, q = frozen.detach().softmax(-1), scores.detach().softmax(-1)
        expected = (p * (p / q).log()).mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    value.backward()
    assert frozen.grad is None
    assert float(scores.grad.abs().max()) > 0
    same = loss(FrozenKL(), {"image.logits": frozen, "frozen/image.logits": frozen}, batch)
    assert same.item() == pytest.approx(0, abs=1e-7)


def test_sccm_is_zero_for_the_mean_of_the_bank():
    bank = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    mean = torch.nn.functional.normalize(bank, dim=-1).mean(1)
    near = loss(SCCM(), {"text.pooled": 7 * mean, "frozen/text@bank.tokens": bank})
    far = loss(SCCM(), {"text.pooled": mean.flip(0), "frozen/text@bank.tokens": bank})
    assert near.item() == pytest.approx(0, abs=1e-12)
    assert far.item() > 1e-3


@pytest.mark.parametrize("multilabel", [False, True])
def test_kdsp_leaves_a_planted_outlier_out(multilabel):
    """Sentence 2 fits no image: without it the scores are those of the untouched model, and so is the loss."""
    draw = torch.Generator().manual_seed(1)
    image = torch.randn(6, 8, generator=draw)
    bank = torch.nn.functional.normalize(image[:4, None] + 0.1 * torch.randn(4, 7, 8, generator=draw), dim=-1)
    bank[:, 2] = -bank[:, 2]
    others = [0, 1, 3, 4, 5, 6]
    text = torch.nn.functional.normalize(bank[:, others].mean(1), dim=-1)
    scores = torch.nn.functional.normalize(image, dim=-1) @ text.T
    if multilabel:
        scores = scores[:, :2] - scores[:, 2:]
    batch = {"label": torch.zeros(6, 2) if multilabel else torch.zeros(6, dtype=torch.long)}
    features = {"image.logits": scores, "frozen/image.pooled": image, "frozen/text@bank.tokens": bank}
    done = KDSP(threshold=2.0)(features, batch, CONTEXT)
    assert int(done["kept"]) == 6
    assert done["loss"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_kdsp_keeps_sentences_that_fit_alike(count):
    assert KDSP().kept(torch.full((count,), 0.3)).all()


def test_kdsp_refuses_a_threshold_that_could_leave_nothing():
    with pytest.raises(ValueError, match="KDSP: threshold must be at least 1"):
        KDSP(threshold=0.5)


def test_frozen_cosine_is_zero_for_the_same_direction_and_blind_to_the_teacher():
    adapted = torch.randn(4, 8, requires_grad=True)
    frozen = (3 * adapted.detach()).requires_grad_()
    objective = FrozenCosine("text")
    assert objective.needs == {"text.pooled", "frozen/text.pooled"}
    value = loss(objective, {"text.pooled": adapted, "frozen/text.pooled": frozen})
    assert value.item() == pytest.approx(0, abs=1e-6)
    opposite = loss(objective, {"text.pooled": adapted, "frozen/text.pooled": -frozen})
    assert opposite.item() == pytest.approx(2, abs=1e-6)
    opposite.backward()
    assert frozen.grad is None
    assert adapted.grad is not None


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: ClassCrossEntropy(logits="logits"), "no feature key"),
        (lambda: ClassCrossEntropy(logits="image.logit"), "unknown stream 'logit'"),
        (lambda: FrozenCosine("image", weight=-1), "must not be negative"),
        (
            lambda: loss(ClassCrossEntropy(), {"image.logits": torch.zeros(1, 2)}, {"label": torch.zeros(1, 2)}),
            "use BinaryCrossEntropy",
        ),
        (
            lambda: loss(
                BinaryCrossEntropy(),
                {"image.logits": torch.zeros(2, 3)},
                {"label": torch.zeros(2, dtype=torch.long), "valid": torch.ones(2, dtype=torch.bool)},
            ),
            "want ClassCrossEntropy",
        ),
    ],
)
def test_misuse_says_what_is_wrong(act, message):
    with pytest.raises(ValueError, match=message):
        act()
