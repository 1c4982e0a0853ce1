"""Policies of what counts as a match, each against its definition, alone and chained, whole and in tiles."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from jsonargparse import ArgumentParser
from memory_peak import peak_bytes

import domainvl.objectives.contrast_parts as parts
from domainvl.objectives import Context, InfoNCE, Objective
from domainvl.objectives.contrast import contrast
from domainvl.objectives.targets import (
    FalseNegativeFilter,
    HardNegatives,
    Identity,
    LabelOverlap,
    LabelSmoothing,
    Momentum,
    Pairs,
    SameGroup,
    Sides,
    TargetPolicy,
    TextSimilarity,
    bind,
)

SIZE, QUEUE, WIDTH = 6, 5, 7


def step(queue=False, offset=0, scale=5.0, at=10):
    draw = torch.Generator().manual_seed(3)
    keys = ["image.pooled", "text.pooled", "ema/image.pooled", "ema/text.pooled", "frozen/text.pooled"]
    features = {key: torch.randn(SIZE, WIDTH, generator=draw) for key in keys}
    features |= {f"queue/{side}.pooled": torch.randn(QUEUE, WIDTH, generator=draw) for side in ("image", "text")}
    batch = {
        "group": torch.tensor([0, 0, 1, 1, 1, 2]),
        "study": torch.tensor([0, 1, 2, 2, 3, 4]),
        "queue/group": torch.tensor([1, 0, 3, 3, 2]),
        "label": torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 0], [0, 0, 0]]).float(),
        "valid": torch.ones(SIZE, 3, dtype=torch.bool),
    }
    return features, batch, Context(torch.tensor(scale), epoch=0, step=at, offset=offset)


def pairs_of(queue=False, way=("image.pooled", "text.pooled"), **given):
    features, batch, context = step(**given)
    columns = features[way[1]]
    if queue:
        columns = torch.cat([columns, features[f"queue/{way[1]}"]])
    return Pairs(*way, features[way[0]], columns, Sides(features, batch, context, queue))


def whole(policies, pairs):
    rows, columns = slice(0, len(pairs.rows)), slice(0, len(pairs.columns))
    return bind(policies, pairs)(rows, columns, pairs.rows @ pairs.columns.T)


def normalised(target, valid):
    target = target.masked_fill(~valid, 0.0)
    return target / target.sum(1, keepdim=True)


def unit(x):
    return F.normalize(x, dim=-1)


CHAINS = [
    [Identity()],
    [SameGroup("group")],
    [SameGroup("study"), SameGroup("group", drop=True)],
    [LabelOverlap(None), HardNegatives(2)],
    [TextSimilarity(0.2), FalseNegativeFilter(0.05), HardNegatives(3)],
    [TextSimilarity(0.2, soft=True), Momentum(0.4)],
    [FalseNegativeFilter(0.0), LabelSmoothing(0.2), Momentum(1.0)],
]


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: "-".join(type(policy).__name__ for policy in chain))
def test_a_chain_does_not_depend_on_how_it_is_cut(chain, monkeypatch):
    pairs = pairs_of()
    target, valid = whole(chain, pairs)
    assert valid.diagonal().all()
    assert (target >= 0).all()
    monkeypatch.setattr(parts, "CPU_TILE", (2, 4))
    rule = bind(chain, pairs)
    for rows in (slice(0, 4), slice(4, 6)):
        for columns in (slice(0, 1), slice(1, 6)):
            part = rule(rows, columns, pairs.rows[rows] @ pairs.columns[columns].T)
            assert torch.allclose(part[0], target[rows, columns], atol=1e-6)
            assert torch.equal(part[1], valid[rows, columns])


def test_without_policies_everybody_is_their_own_match():
    assert bind([], pairs_of()) is None
    target, valid = whole([SameGroup("group"), Identity()], pairs_of())
    assert torch.equal(target, torch.eye(SIZE))
    assert valid.all()


def test_rows_know_their_columns_behind_an_offset():
    features, batch, context = step(offset=6)
    columns = torch.cat([features["text.pooled"].flip(0), features["text.pooled"]])
    pairs = Pairs("image.pooled", "text.pooled", features["image.pooled"], columns, Sides(features, batch, context))
    target, _ = whole([Identity()], pairs)
    assert torch.equal(target, torch.eye(12)[6:])


def test_records_of_one_patient_match_or_are_left_out():
    group = torch.tensor([0, 0, 1, 1, 1, 2])
    same = group[:, None] == group
    target, valid = whole([SameGroup("group")], pairs_of())
    assert torch.equal(target, same.float())
    assert valid.all()
    target, valid = whole([SameGroup("group", drop=True)], pairs_of())
    assert torch.equal(target, torch.eye(SIZE))
    assert torch.equal(valid, ~same | torch.eye(SIZE, dtype=torch.bool))


def test_dropping_a_patient_keeps_the_matches_of_a_study():
    target, valid = whole([SameGroup("study"), SameGroup("group", drop=True)], pairs_of())
    assert valid[2, 3]
    assert target[2, 3] == 1
    assert not valid[2, 4]
    assert valid[0, 2]


def test_the_queue_has_groups_of_its_own():
    target, _ = whole([SameGroup("group")], pairs_of(queue=True))
    assert torch.equal(
        target[:, SIZE:], (torch.tensor([0, 0, 1, 1, 1, 2])[:, None] == torch.tensor([1, 0, 3, 3, 2])).float()
    )


def test_labels_overlap_by_jaccard():
    soft, _ = whole([LabelOverlap(None)], pairs_of())
    assert soft[0].tolist() == pytest.approx([1, 1 / 2, 1 / 3, 0, 1, 0])
    hard, _ = whole([LabelOverlap(0.5)], pairs_of())
    assert hard[0].tolist() == [1, 1, 0, 0, 1, 0]


@pytest.mark.parametrize(("empty", "expected"), [(False, 0.0), (True, 1.0)])
def test_two_normal_records_match_if_asked(empty, expected):
    target, _ = whole([LabelOverlap(empty=empty)], pairs_of())
    assert target[3, 5] == expected
    assert target[3, 0] == 0


def test_unknown_labels_do_not_count():
    pairs = pairs_of()
    batch = pairs.sides.batch
    batch["valid"][1] = torch.tensor([True, False, True])
    batch["valid"][3] = False
    batch["label"][1, 1] = torch.nan
    batch["label"][3] = torch.nan
    target, _ = whole([LabelOverlap(None, empty=True)], pairs)
    assert target[0, 1] == 1
    assert target[3, 5] == 0
    assert target.isfinite().all()


def test_one_label_per_record_overlaps_fully_or_not():
    pairs = pairs_of()
    pairs.sides.batch["label"] = torch.tensor([0, 1, 0, 2, 1, 3])
    target, _ = whole([LabelOverlap()], pairs)
    label = pairs.sides.batch["label"]
    assert torch.equal(target, (label[:, None] == label).float())


def test_unique_labels_give_infonce():
    features, batch, context = step()
    batch["label"] = torch.arange(SIZE)
    plain = InfoNCE()(features, batch, context)["loss"]
    assert InfoNCE(targets=[LabelOverlap()])(features, batch, context)["loss"].item() == pytest.approx(plain.item())


@pytest.mark.parametrize("soft", [False, True])
def test_texts_that_say_the_same(soft):
    pairs = pairs_of()
    text = pairs.sides.features["frozen/text.pooled"]
    text[4] = 2 * text[1]
    cosines = unit(text) @ unit(text).T
    target, valid = whole([TextSimilarity(0.9, soft=soft)], pairs)
    if soft:
        assert target[1, 4].item() == pytest.approx(1)
        assert valid.all()
        assert target[0, 2] == 0
    else:
        assert torch.equal(~valid, (cosines >= 0.9) & ~torch.eye(SIZE, dtype=torch.bool))
        assert not valid[1, 4]
        assert not valid[4, 1]


def test_negatives_that_fit_better_than_the_match_are_left_out():
    pairs = pairs_of()
    cosines = pairs.rows @ pairs.columns.T
    _, valid = whole([FalseNegativeFilter(0.1)], pairs)
    limit = cosines.diagonal()[:, None] + 0.1
    assert torch.equal(valid, (cosines <= limit) | torch.eye(SIZE, dtype=torch.bool))
    assert not valid.all()


def test_a_planted_duplicate_gets_no_gradient():
    features, batch, context = step()
    image, text = features["image.pooled"][:1], features["text.pooled"]
    text[0] += image[0]
    text[3] = 2 * image[0]
    text.requires_grad_()
    pairs = Pairs("image.pooled", "text.pooled", image, text, Sides(features, batch, context))
    contrast(image, text, 5.0, bind([FalseNegativeFilter(0.1)], pairs)).loss.backward()
    assert torch.equal(text.grad[3], torch.zeros(WIDTH))
    assert (text.grad[[0, 1, 2, 4, 5]].abs().sum(1) > 0).all()


@pytest.mark.parametrize("k", [1, 3, 5, 50])
def test_the_k_hardest_negatives_stay(k):
    pairs = pairs_of(queue=True)
    cosines = pairs.rows @ pairs.columns.T
    target, valid = whole([HardNegatives(k)], pairs)
    count = min(k, SIZE + QUEUE - 1)
    assert (valid.sum(1) == count + 1).all()
    negatives = cosines.masked_fill(target > 0, -torch.inf)
    least = negatives.topk(count).values[:, -1:]
    assert torch.equal(valid & (target == 0), negatives >= least)


def test_what_a_filter_dropped_stays_out_where_fewer_than_k_are_left():
    chain = [FalseNegativeFilter(-3.0), HardNegatives(2)]
    _, valid = whole(chain, pairs_of())
    assert torch.equal(valid, torch.eye(SIZE, dtype=torch.bool))


def test_the_hardest_are_sought_among_those_that_are_left():
    pairs = pairs_of(queue=True)
    cosines = pairs.rows @ pairs.columns.T
    _, left = whole([FalseNegativeFilter(0.0)], pairs)
    _, valid = whole([FalseNegativeFilter(0.0), HardNegatives(1)], pairs)
    negatives = left.clone()
    negatives[:, :SIZE].fill_diagonal_(False)
    assert not left.all()
    for i in range(SIZE):
        expected = {i}
        if negatives[i].any():
            expected.add(int(cosines[i].masked_fill(~negatives[i], -2.0).argmax()))
        assert set(valid[i].nonzero().flatten().tolist()) == expected


class Nobody(TargetPolicy):
    """Nobody matches and nobody counts."""

    def bind(self, pairs, before):
        return lambda tile: replace(before(tile), target=0 * tile.target, valid=torch.zeros_like(tile.valid))


def test_a_row_keeps_its_own_column_whatever_policies_say():
    target, valid = whole([Nobody()], pairs_of())
    assert torch.equal(valid, torch.eye(SIZE, dtype=torch.bool))
    assert not target.any()


def test_all_negatives_without_a_limit_are_infonce_one_way():
    features, batch, context = step()
    plain = InfoNCE(symmetric=False)(features, batch, context)["loss"]
    chain = [FalseNegativeFilter(float("inf")), HardNegatives(SIZE - 1)]
    ours = InfoNCE(targets=chain, symmetric=False)(features, batch, context)["loss"]
    assert ours.item() == pytest.approx(plain.item(), rel=1e-6)


@pytest.mark.parametrize(
    "chain", [[SameGroup("group"), Momentum()], [LabelOverlap(None)], [FalseNegativeFilter(), HardNegatives(4)]]
)
def test_policies_never_hold_a_matrix_of_all_pairs(chain):
    """Linear in B, and less than one matrix of scores at 4096."""

    def peak(size):
        draw = torch.Generator().manual_seed(0)
        keys = ("image.pooled", "text.pooled", "ema/image.pooled", "ema/text.pooled")
        features = {key: torch.randn(size, 64, generator=draw, requires_grad="/" not in key) for key in keys}
        batch = {"group": torch.arange(size) // 3, "label": (torch.rand(size, 14, generator=draw) > 0.8).float()}
        context = Context(torch.tensor(14.3), epoch=0)
        return peak_bytes(lambda: InfoNCE(targets=chain, tiled=True)(features, batch, context)["loss"].backward())

    small, large = peak(2048), peak(4096)
    assert large <= 2.3 * small
    assert large <= 4096**2 * 4 / 2


def test_a_recipe_names_policies_by_their_class():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--objective", type=Objective)
    policies = [
        {"class_path": "SameGroup", "init_args": {"by": "group", "drop": True}},
        {"class_path": "Momentum", "init_args": {"alpha": 0.3}},
    ]
    config = parser.parse_object({"objective": {"class_path": "InfoNCE", "init_args": {"targets": policies}}})
    made = parser.instantiate(config).objective.policies
    assert [type(policy) for policy in made] == [SameGroup, Momentum]
    assert (made[0].by, made[0].drop, made[1].alpha) == ("group", True, 0.3)


def test_needs_follow_the_compared_features_and_the_queue():
    objective = InfoNCE(
        "image@second.pooled", "text.pooled", targets=[SameGroup("study"), Momentum(), LabelOverlap()], queue=True
    )
    assert objective.needs == {
        "image@second.pooled",
        "text.pooled",
        "queue/image@second.pooled",
        "queue/text.pooled",
        "ema/image@second.pooled",
        "ema/text.pooled",
        "batch:study",
        "batch:queue/study",
        "batch:label",
        "batch:queue/label",
        "batch:valid?",
        "batch:queue/valid?",
    }


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: LabelOverlap(0.0), "LabelOverlap: threshold"),
        (lambda: TextSimilarity(1.5), "TextSimilarity: threshold"),
        (lambda: TextSimilarity(text="text"), "no feature key"),
        (lambda: HardNegatives(0), "HardNegatives: k"),
        (lambda: Momentum(1.5), "Momentum: alpha"),
        (lambda: Momentum(ramp_steps=-1), "Momentum: ramp_steps"),
        (lambda: LabelSmoothing(1.0), "LabelSmoothing: epsilon"),
        (lambda: InfoNCE(targets=[TextSimilarity()], queue=True), "do not go with a queue"),
        (lambda: InfoNCE("image"), "no feature key"),
        (lambda: InfoNCE("image.pooled", "image.pooled"), "finds themselves"),
        (lambda: InfoNCE(label_smoothing=-0.1), "InfoNCE: label_smoothing"),
    ],
)
def test_misuse_of_a_policy_says_what_is_wrong(act, message):
    with pytest.raises(ValueError, match=message):
        act()
