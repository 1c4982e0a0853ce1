"""Policies that soften what counts as a match: a teacher's scores, and label smoothing."""

import pytest
import torch
from objectives.test_targets import SIZE, normalised, pairs_of, step, unit, whole

from domainvl.objectives import Context, InfoNCE
from domainvl.objectives.targets import LabelSmoothing, Momentum, SameGroup


def test_momentum_mixes_the_teacher_with_what_came_before():
    pairs = pairs_of(queue=True)
    features = pairs.sides.features
    against = unit(torch.cat([features["ema/text.pooled"], features["queue/text.pooled"]]))
    teacher = (5 * unit(features["ema/image.pooled"]) @ against.T).softmax(1)
    group = whole([SameGroup("group")], pairs)
    expected = 0.4 * teacher + 0.6 * normalised(*group)
    assert torch.allclose(normalised(*whole([SameGroup("group"), Momentum(0.4)], pairs)), expected, atol=1e-6)


def test_the_teacher_spreads_over_valid_columns_alone():
    pairs = pairs_of()
    target, valid = whole([SameGroup("group", drop=True), Momentum(0.4)], pairs)
    teacher = unit(pairs.sides.features["ema/image.pooled"]) @ unit(pairs.sides.features["ema/text.pooled"]).T
    soft = (5 * teacher).masked_fill(~valid, -torch.inf).softmax(1)
    assert torch.allclose(target, 0.4 * soft + 0.6 * torch.eye(SIZE), atol=1e-6)


def test_momentum_nought_is_cross_entropy():
    features, batch, context = step()
    plain = InfoNCE()(features, batch, context)["loss"]
    for policy in (Momentum(0.0), Momentum(0.4, ramp_steps=7)):
        at = Context(context.scale, epoch=0, step=0 if policy.ramp_steps else 10)
        assert InfoNCE(targets=[policy])(features, batch, at)["loss"].item() == pytest.approx(plain.item(), rel=1e-6)


def test_a_teacher_that_equals_the_student_teaches_nothing():
    features, batch, context = step()
    for side in ("image", "text"):
        features[f"{side}.pooled"].requires_grad_()
        features[f"ema/{side}.pooled"] = features[f"{side}.pooled"].detach()
    InfoNCE(targets=[Momentum(1.0)])(features, batch, context)["loss"].backward()
    for side in ("image", "text"):
        assert features[f"{side}.pooled"].grad.abs().max() < 1e-7


@pytest.mark.parametrize(("at", "expected"), [(0, 0.0), (5, 0.2), (10, 0.4), (99, 0.4)])
def test_alpha_grows_with_the_steps(at, expected):
    assert Momentum(0.4, ramp_steps=10).share(at) == pytest.approx(expected)


def test_smoothing_as_a_policy_equals_smoothing_in_the_kernel():
    features, batch, context = step()
    chain = [SameGroup("study"), SameGroup("group", drop=True)]
    in_kernel = InfoNCE(targets=chain, label_smoothing=0.2)(features, batch, context)["loss"]
    policy = InfoNCE(targets=[*chain, LabelSmoothing(0.2)])(features, batch, context)["loss"]
    assert policy.item() == pytest.approx(in_kernel.item(), rel=1e-6)


def test_smoothing_bounds_the_pull_of_a_wrong_pair():
    """ALIGN: of one mislabelled row, the largest gradient is smaller with smoothing."""
    features, batch, context = step(scale=30.0)
    image = unit(features["text.pooled"]).clone()
    image[[0, 1]] = image[[1, 0]]
    worst = []
    for smoothing in (0.0, 0.1):
        features["image.pooled"] = image.clone().requires_grad_()
        InfoNCE(label_smoothing=smoothing, symmetric=False)(features, batch, context)["loss"].backward()
        worst.append(features["image.pooled"].grad[0].norm().item())
    assert worst[1] < worst[0]
