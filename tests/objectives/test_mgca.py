"""MGCA: closed forms of both losses, weights, and prototypes that share the batch out."""

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from domainvl.objectives import Context, MgcaPrototype, MgcaToken
from domainvl.objectives.mgca_prototype import sinkhorn
from domainvl.objectives.mgca_token import weights


def context(epoch=1):
    return Context(scale=torch.tensor(1.0), epoch=epoch)


def local(records=3, patches=6, words=5, width=8):
    draw = torch.Generator().manual_seed(0)
    mask = torch.ones(records, words, dtype=torch.bool)
    mask[0, 3:] = False
    return {
        "image.tokens": torch.randn(records, patches, width, generator=draw),
        "image.mask": torch.ones(records, patches, dtype=torch.bool),
        "text.tokens": torch.randn(records, words, width, generator=draw),
        "text.mask": mask,
    }


def test_tokens_in_closed_form():
    """Record by record, cut to its real words, without attention to weigh by."""
    features = local()
    expected = torch.zeros(())
    for patch, word, mask in zip(*(features[key] for key in ("image.tokens", "text.tokens", "text.mask")), strict=True):
        p, w = normalize(patch, dim=1), normalize(word[mask], dim=1)
        for one, other in ((w, p), (p, w)):
            found = normalize((one @ other.T / 0.1).softmax(1) @ other, dim=1)
            scores, own = one @ found.T / 0.1, torch.arange(len(one))
            expected += (cross_entropy(scores, own) + cross_entropy(scores.T, own)) / 2 / 3
    assert MgcaToken()(features, {}, context())["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_attention_is_cut_to_its_quantiles():
    attention = torch.tensor([[0.0, 1.0, 2.0, 3.0, 100.0, 7.0], [0.0, 0.0, 5.0, 7.0, 7.0, 7.0]])
    mask = torch.tensor([[True] * 5 + [False], [True, True, False, False, False, False]])
    found = weights(attention, mask, torch.float32)
    real = attention[0, 1:5]
    expected = real.clamp(*torch.quantile(real, torch.tensor([0.1, 0.9])).tolist())
    assert torch.allclose(found[0, 1:5], expected / expected.sum())
    assert found[0, [0, 5]].tolist() == [0, 0]
    assert found[1].tolist() == [0] * 6
    assert torch.equal(weights(None, mask, torch.float32)[1], torch.tensor([0.5, 0.5, 0, 0, 0, 0]))


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_codes_share_the_batch_out(scale):
    """Rows are distributions, columns are even: also where nearly all rows prefer the same prototype."""
    scores = scale * torch.randn(40, 8, generator=torch.Generator().manual_seed(0)) * 0.1
    scores[:, 0] += scale
    codes = sinkhorn(scores, 200)
    assert torch.allclose(codes.sum(1), torch.ones(40))
    assert torch.allclose(codes.sum(0), torch.full((8,), 5.0), atol=1e-2)
    assert sinkhorn(scores, 3).isfinite().all()


def test_prototypes_become_the_clusters_of_both_sides():
    """Four diseases, seen from two sides; prototypes start anywhere, and none is left without records."""
    draw = torch.Generator().manual_seed(1)
    truth = torch.arange(64) % 4
    sides = [normalize(torch.randn(4, 16, generator=draw), dim=1)[truth] for _ in range(2)]
    sides = [side + 0.1 * torch.randn(64, 16, generator=draw) for side in sides]
    torch.manual_seed(0)
    maps = torch.nn.ModuleList(torch.nn.Linear(16, 8, bias=False) for _ in sides)
    objective = MgcaPrototype(prototypes=4)
    objective.attach({"image.pooled": 8, "text.pooled": 8})
    optimizer = torch.optim.Adam([*maps.parameters(), *objective.parameters()], lr=0.02)
    for _ in range(150):
        features = {f"{name}.pooled": m(side) for name, m, side in zip(("image", "text"), maps, sides, strict=True)}
        optimizer.zero_grad()
        objective(features, {}, context())["loss"].backward()
        optimizer.step()
    near = [
        (normalize(value.detach(), dim=1) @ objective.prototypes.detach().T).argmax(1) for value in features.values()
    ]
    assert (near[0] == near[1]).float().mean() > 0.95
    for side in near:
        assert side.bincount(minlength=4).tolist() == [16] * 4
        assert all(len(side[truth == disease].unique()) == 1 for disease in range(4))


def test_prototypes_wait_and_keep_their_length():
    objective = MgcaPrototype(prototypes=6, frozen_epochs=2)
    objective.attach({"image.pooled": 8, "text.pooled": 8})
    objective.prototypes.data *= 3
    features = {key: torch.randn(4, 8, requires_grad=True) for key in ("image.pooled", "text.pooled")}
    objective(features, {}, context(epoch=1))["loss"].backward()
    assert torch.allclose(objective.prototypes.norm(dim=1), torch.ones(6))
    assert objective.prototypes.grad.abs().sum() == 0
    assert features["image.pooled"].grad.abs().sum() > 0
    objective(features, {}, context(epoch=2))["loss"].backward()
    assert objective.prototypes.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: MgcaToken(temperature=0.0), "temperature"),
        (lambda: MgcaPrototype(prototypes=1), "prototypes"),
        (lambda: MgcaPrototype(epsilon=0.0), "epsilon"),
        (lambda: MgcaPrototype(iterations=0), "iterations"),
        (lambda: MgcaPrototype().attach({"image.pooled": 8, "text.pooled": 4}), "one space"),
    ],
)
def test_refused_settings(make, named):
    with pytest.raises(ValueError, match=named):
        make()
