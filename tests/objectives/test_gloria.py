"""GLoRIA: a planted region for every word, the paper's formula, images of different size."""

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from domainvl.objectives import Context, GloriaLocal
from domainvl.objectives.targets import SameGroup

CONTEXT = Context(scale=torch.tensor(1.0), epoch=0)


def step(images=6, regions=9, words=4, width=16):
    draw = torch.Generator().manual_seed(0)
    return {
        "image.tokens": torch.randn(images, regions, width, generator=draw),
        "image.mask": torch.ones(images, regions, dtype=torch.bool),
        "text.tokens": torch.randn(images, words, width, generator=draw),
        "text.mask": torch.ones(images, words, dtype=torch.bool),
    }


def test_words_find_their_regions():
    """The means of all images are alike; only single regions say which text is whose."""
    features = step()
    regions, words = features["image.tokens"], features["text.tokens"]
    regions[:, :4] = words
    regions -= regions.mean(dim=1, keepdim=True)
    features["text.tokens"] = regions[:, :4] * 3
    assert GloriaLocal()(features, {}, CONTEXT)["accuracy"] == 1


def test_without_the_softmax_over_words_it_is_the_paper():
    features = step()
    v, w = features["image.tokens"], features["text.tokens"]
    z = torch.zeros(6, 6)
    for i in range(6):
        for j in range(6):
            found = (4 * w[j] @ v[i].T).softmax(dim=1) @ v[i]
            z[i, j] = (5 * (normalize(found, dim=1) * normalize(w[j], dim=1)).sum(1)).exp().sum().log()
    own = torch.arange(6)
    expected = (cross_entropy(10 * z, own) + cross_entropy(10 * z.T, own)) / 2
    loss = GloriaLocal(word_softmax=False)(features, {}, CONTEXT)["loss"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_padded_regions_are_not_seen():
    """An image whose grid is smaller than the batch's largest."""
    features = step()
    features["image.mask"][0, 5:] = False
    before = GloriaLocal()(features, {}, CONTEXT)["loss"]
    features["image.tokens"][0, 5:] = torch.inf
    features["image.tokens"].requires_grad_()
    loss = GloriaLocal()(features, {}, CONTEXT)["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(before.item(), rel=1e-6)
    assert features["image.tokens"].grad[0, 5:].abs().sum() == 0
    assert features["image.tokens"].grad.isfinite().all()


def test_reports_of_one_study_do_not_compete():
    """Two records with the same content: as matches of each other they can be told from the rest completely."""
    features = step(images=4)
    for key in ("image.tokens", "text.tokens"):
        features[key][1] = features[key][0]
    features["image.tokens"][:, :4] = features["text.tokens"]
    pooled = {f"{side}.pooled": features[f"{side}.tokens"].mean(dim=1) for side in ("image", "text")}
    batch = {"study": torch.tensor([0, 0, 1, 2])}
    merged = GloriaLocal(targets=[SameGroup("study", drop=True)])(features | pooled, batch, CONTEXT)["loss"]
    assert merged < GloriaLocal()(features, {}, CONTEXT)["loss"] - 0.2


@pytest.mark.parametrize(
    ("settings", "named"), [({"scale": 0.0}, "scale"), ({"aggregate": "max"}, "sum or mean"), ({"text": "x.mask"}, "x")]
)
def test_refused_settings(settings, named):
    with pytest.raises(ValueError, match=named):
        GloriaLocal(**settings)
