"""PriorCLIP: beliefs that follow ranks, means of classes that can be reached."""

import math

import pytest
import torch
import torch.nn.functional as F
from contract_cases import context, sample

from domainvl.objectives import PriorAttribution, PriorBelief
from domainvl.objectives.prior_attribution import class_means
from domainvl.objectives.prior_belief import belief_ranks, belief_weights

WHOLE = torch.ones(5, 7, dtype=torch.bool)


def patches(seed=0, rows=5, length=7, width=8):
    draw = torch.Generator().manual_seed(seed)
    tokens = F.normalize(torch.randn(rows, length, width, generator=draw), dim=-1)
    return tokens, torch.randn(rows, width, generator=draw)


def test_weights_follow_the_ranks_of_beliefs():
    tokens, prior = patches()
    weights = belief_weights(tokens, WHOLE, prior, 0.07)
    scores = (tokens * F.normalize(prior, dim=-1)[:, None]).sum(2)
    for row in range(5):
        order = sorted(range(7), key=lambda place: -scores[row, place].item())
        belief = (scores[row] / 0.07).softmax(0)
        for rank, place in enumerate(order, 1):
            assert weights[row, place].item() == pytest.approx(belief[place].item() + rank**-0.5, rel=1e-5)
        assert torch.equal(weights[row].argsort(descending=True), torch.tensor(order))
    # What is taken for ranks in the released code.
    wrong = 1 / (scores.sort(1, descending=True).indices + 1).sqrt()
    assert not torch.equal(wrong.argsort(1, descending=True), scores.argsort(1, descending=True))


def test_equal_beliefs_share_a_rank():
    assert belief_ranks(torch.tensor([[0.5, 2.0, 0.5, 3.0], [1.0, 1.0, 1.0, 1.0]])).tolist() == [
        [3, 2, 3, 1],
        [1, 1, 1, 1],
    ]


def test_hard_belief_keeps_the_first_share_of_real_patches():
    tokens, prior = patches()
    mask = WHOLE.clone()
    mask[0, 4:] = False
    weights = belief_weights(tokens, mask, prior, 0.07, keep=0.5)
    assert (weights > 0).sum(1).tolist() == [2, 4, 4, 4, 4]
    assert (weights[0, 4:] == 0).all()
    full = belief_weights(tokens, mask, prior, 0.07)
    assert torch.equal(weights[weights > 0], full[weights > 0])


@pytest.mark.parametrize("keep", [1.0, 0.6])
def test_an_embedding_does_not_depend_on_its_batch_mates_nor_on_padding(keep):
    features, _ = sample()
    features["image.mask"][1, 2:] = False
    objective = PriorBelief(keep=keep)
    together = objective.believed(features)
    longer = {**features}
    longer["image.tokens"] = torch.cat([features["image.tokens"], torch.full((6, 3, 8), 9.0)], 1)
    longer["image.mask"] = torch.cat([features["image.mask"], torch.zeros(6, 3, dtype=torch.bool)], 1)
    torch.testing.assert_close(objective.believed(longer), together)
    for row in range(6):
        alone = {key: value[row : row + 1] for key, value in features.items() if key.endswith(("d", "s", "k"))}
        torch.testing.assert_close(objective.believed(alone)[0], together[row], rtol=1e-5, atol=1e-6)


def test_a_planted_region_is_believed_and_learned_from():
    """The patch that the prior points at carries what the text says; the others carry what other texts say."""
    basis = torch.eye(12)
    tokens = torch.stack([basis[[3 + row, 9, 10, 11]] for row in range(3)]).clone()
    features = {
        "image.pooled": basis[:3] * 0.1 + basis[8],
        "image.tokens": tokens.requires_grad_(),
        "image.mask": torch.ones(3, 4, dtype=torch.bool),
        "text.pooled": basis[3:6].clone(),
        "frozen/image.pooled": basis[3:6] + 0.1 * basis[9],
    }
    done = PriorBelief()(features, {}, context(torch.tensor(5.0)))
    assert done["accuracy"] == 1.0
    done["loss"].backward()
    share = belief_weights(F.normalize(tokens, dim=-1), features["image.mask"], features["frozen/image.pooled"], 0.07)
    assert (share.argmax(1) == 0).all()
    misled = {**features, "frozen/image.pooled": basis[[9, 9, 9]]}
    assert PriorBelief()(misled, {}, context(torch.tensor(5.0)))["loss"] > done["loss"]


def collapsed(classes, width=8):
    """Everybody at the corner of their class, on both sides."""
    rows = F.one_hot(torch.tensor(classes), width).float()
    return {"image.pooled": rows, "text.pooled": rows.clone()}, {"label": torch.tensor(classes)}


@pytest.mark.parametrize("classes", [[0, 1, 2], [0, 0, 0, 1, 2, 2], [5, 5, 5, 5], [0, 1, 1, 1, 1, 1, 1]])
def test_the_floor_of_attribution_is_nought(classes):
    features, batch = collapsed(classes)
    found = PriorAttribution()(features, batch, context(torch.tensor(100.0)))["loss"].item()
    assert found == pytest.approx(0.0, abs=1e-6)
    # A column for every record cannot do that: some class has several that are the same.
    repeated = 100 * features["image.pooled"] @ features["text.pooled"].T
    columns = F.cross_entropy(repeated, torch.arange(len(classes))).item()
    counts = [classes.count(one) for one in classes]
    assert columns == pytest.approx(sum(map(math.log, counts)) / len(counts), abs=1e-5)


def test_unknown_classes_are_in_no_mean_and_search_none():
    features, _ = sample()
    label = torch.zeros(6, 3)
    label[torch.arange(4), torch.tensor([0, 0, 1, 2])] = 1
    valid = torch.ones(6, 3, dtype=torch.bool)
    valid[4:] = False
    label[4:] = torch.nan
    some = {key: features[key][:4] for key in ("image.pooled", "text.pooled")}
    whole = PriorAttribution()(features, {"label": label, "valid": valid}, context())["loss"]
    part = PriorAttribution()(some, {"label": torch.tensor([0, 0, 1, 2])}, context())["loss"]
    assert whole.item() == pytest.approx(part.item(), rel=1e-6)


def test_means_of_classes():
    rows = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
    means, there = class_means(rows, torch.tensor([7, 7, 2]))
    assert means.tolist() == [[0.0, 5.0], [2.0, 0.0]]
    assert there.all()


@pytest.mark.parametrize(("argument", "value"), [("temperature", 0.0), ("keep", 0.0), ("keep", 1.5)])
def test_what_makes_no_sense_is_refused(argument, value):
    with pytest.raises(ValueError, match=f"PriorBelief: {argument}"):
        PriorBelief(**{argument: value})
