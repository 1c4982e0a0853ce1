"""Organs and their texts: false negatives by what was said, scans without the organ left out, and a bank of texts."""

import pytest
import torch
import torch.nn.functional as F

from domainvl.objectives import Context, OrganContrast
from domainvl.objectives.targets import Pairs, SemanticBank, Sides, bind

SAID = ["The liver is fine.", "A cyst.", "the  liver is FINE. Small.", "A cyst.", "A lesion.", ""]
CONTEXT = Context(scale=torch.tensor(5.0), epoch=0)


def step(said=SAID, there=None, seed=0):
    draw = torch.Generator().manual_seed(seed)
    features = {
        "image@liver.pooled": torch.randn(len(said), 8, generator=draw).requires_grad_(),
        "text@liver.pooled": torch.randn(len(said), 8, generator=draw).requires_grad_(),
        "image@liver.mask": torch.ones(len(said), dtype=torch.bool) if there is None else torch.tensor(there),
    }
    return features, {"text@liver": said}


def loss_of(features, batch, **settings):
    return OrganContrast(["liver"], ["The {organ} is fine"], **settings)(features, batch, CONTEXT)


def closed_form(features, rows, same):
    a, b = (F.normalize(features[f"{side}@liver.pooled"][rows], dim=-1) for side in ("image", "text"))
    target = same / same.sum(1, keepdim=True)
    scores = 5 * a @ b.T
    return -0.5 * ((target * scores.log_softmax(1)).sum(1).mean() + (target * scores.T.log_softmax(1)).sum(1).mean())


def test_equal_texts_and_normal_organs_are_matches():
    features, batch = step()
    same = torch.eye(5)
    same[0, 2] = same[2, 0] = same[1, 3] = same[3, 1] = 1
    done = loss_of(features, batch)
    assert done["loss"].item() == pytest.approx(closed_form(features, slice(0, 5), same).item(), rel=1e-5)
    assert done["organs"] == 1


def test_scans_without_the_organ_or_a_word_about_it_take_no_part():
    features, batch = step(there=[True, True, False, True, True, True])
    loss_of(features, batch)["loss"].backward()
    for side in ("image", "text"):
        reached = features[f"{side}@liver.pooled"].grad.abs().sum(1) > 0
        assert reached.tolist() == [True, True, False, True, True, False]
    loud = {key: value.detach().clone() for key, value in features.items()}
    for row in (2, 5):
        loud["image@liver.pooled"][row] = loud["text@liver.pooled"][row] = 1e3
    assert loss_of(loud, batch)["loss"].item() == pytest.approx(loss_of(features, batch)["loss"].item(), rel=1e-5)


@pytest.mark.parametrize(
    "said", [["The liver is fine.", "The liver is fine. Old."], ["A cyst.", "A cyst."], ["", "A cyst."]]
)
def test_an_organ_of_which_all_say_the_same_teaches_nothing(said):
    features, batch = step(said)
    done = loss_of(features, batch)
    done["loss"].backward()
    assert done["loss"].item() == 0
    assert done["organs"] == 0
    assert not features["image@liver.pooled"].grad.any()


def test_planted_organs_are_found():
    """Texts of three kinds, features at random: what says the same comes together, the rest moves apart."""
    draw = torch.Generator().manual_seed(1)
    kinds = torch.arange(12) % 3
    said = [("The liver is fine.", "A cyst.", "A lesion.")[kind] for kind in kinds]
    text = torch.eye(3)[kinds]
    image = torch.randn(12, 3, generator=draw).requires_grad_()
    optimizer = torch.optim.Adam([image], 0.1)
    features = {"text@liver.pooled": text, "image@liver.mask": torch.ones(12, dtype=torch.bool)}
    for _ in range(60):
        optimizer.zero_grad()
        loss_of(features | {"image@liver.pooled": image}, {"text@liver": said})["loss"].backward()
        optimizer.step()
    assert (F.normalize(image, dim=1) @ torch.eye(3)).argmax(1).tolist() == kinds.tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"organs": []}, "at least one organ"), ({"organs": ["a", "a"]}, "each once"), ({"scale": 0.0}, "scale must")],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        OrganContrast(**{"organs": ["liver"], **settings})


def banked(texts, **settings):
    """P of a batch whose reports have these features."""
    count = len(texts)
    features = {
        "image.pooled": torch.randn(count, 4, generator=torch.Generator().manual_seed(0)),
        "text.pooled": torch.randn(count, 4, generator=torch.Generator().manual_seed(1)),
        "frozen/text.pooled": torch.as_tensor(texts),
    }
    pairs = Pairs(
        "image.pooled", "text.pooled", features["image.pooled"], features["text.pooled"], Sides(features, {}, CONTEXT)
    )
    rule = bind([SemanticBank(**settings)], pairs)
    return rule(slice(0, count), slice(0, count), pairs.rows @ pairs.columns.T)[0], rule


def test_the_bank_is_its_closed_form():
    """Reports 0, 1 and 2 are alike, 3 is like nobody."""
    texts = [[1.0, 0.0], [0.99, 0.1], [0.95, 0.3], [-1.0, 0.2]]
    found, rule = banked(texts, k=2, threshold=0.9, alpha=0.4, temperature=0.2)
    unit = F.normalize(torch.tensor(texts), dim=1)
    near = (unit @ unit.T).fill_diagonal_(-torch.inf).masked_fill(unit @ unit.T < 0.9, -torch.inf)
    expected = 0.6 * torch.eye(4) + 0.4 * (near / 0.2).softmax(1).nan_to_num()
    expected[3] = torch.eye(4)[3]
    torch.testing.assert_close(found, expected)
    pieces = [rule(slice(0, 4), slice(start, start + 2), torch.zeros(4, 2))[0] for start in (0, 2)]
    torch.testing.assert_close(torch.cat(pieces, 1), found)


def test_the_bank_keeps_k_and_no_more():
    texts = [[1.0, 0.0], [1.0, 0.01], [1.0, 0.05], [1.0, 0.1]]
    found, _ = banked(texts, k=1, alpha=0.5)
    assert (found > 0).sum(1).tolist() == [2, 2, 2, 2]
    assert found[0].tolist() == pytest.approx([0.5, 0.5, 0, 0])
    assert torch.equal(banked(texts, alpha=0.0)[0], torch.eye(4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k must be"),
        ({"threshold": 0.0}, "threshold"),
        ({"alpha": 1.0}, "alpha"),
        ({"temperature": 0}, "temperature"),
    ],
)
def test_a_bank_that_makes_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        SemanticBank(**settings)


def test_a_bank_needs_a_text():
    with pytest.raises(ValueError, match="name text"):
        SemanticBank().needs("image.pooled", "image@second.pooled")
    assert SemanticBank().needs("text@liver.pooled", "image@liver.pooled") == {"frozen/text@liver.pooled"}
