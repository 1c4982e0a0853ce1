"""ViLLA on a planted grid: which region shows what is learned from labels of whole images alone."""

import pytest
import torch
from sklearn.metrics import average_precision_score
from torch.nn.functional import normalize, one_hot

from domainvl.objectives import Context, InfoNCE, VillaMapping, VillaRegions
from domainvl.objectives.villa_regions import same_kind, set_numbers

ATTRIBUTES, WIDTH, REGIONS = 6, 32, 9


def context(epoch=0, scale=1 / 0.07):
    return Context(scale=torch.tensor(scale), epoch=epoch)


def grid(images, seed, unlabelled=0.0):
    """Pictures of nine regions, each with one of six things or of three kinds of background.

    The frozen model sees every thing, but its texts have nothing to do with how things look. Returns what it makes of
    the pictures, labels of whole pictures, and which region shows what `[B, R, A]`.
    """
    fixed, draw = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    looks = normalize(torch.randn(ATTRIBUTES + 3, WIDTH, generator=fixed), dim=1)
    texts = normalize(torch.randn(ATTRIBUTES, WIDTH, generator=fixed), dim=1)
    things = torch.rand(images, ATTRIBUTES, generator=draw).argsort(dim=1)[:, :3]
    content = torch.randint(ATTRIBUTES, ATTRIBUTES + 3, (images, REGIONS), generator=draw)
    places = torch.rand(images, REGIONS, generator=draw).argsort(dim=1)[:, :4]
    content.scatter_(1, places, torch.cat([things, things[:, :1]], dim=1))
    tokens = looks[content] + 0.1 * torch.randn(images, REGIONS, WIDTH, generator=draw)
    truth = one_hot(content, ATTRIBUTES + 3)[..., :ATTRIBUTES].bool()
    label = truth.any(dim=1).float()
    valid = torch.rand(label.shape, generator=draw) >= unlabelled
    features = {
        "frozen/image.tokens": tokens,
        "frozen/image.mask": torch.ones(images, REGIONS, dtype=torch.bool),
        "frozen/text@classes.pooled": texts,
        "text.pooled": label @ texts,
    }
    return features, {"label": label.where(valid, torch.nan), "valid": valid}, truth


def learn(objective, where, steps, parameters, extra=dict):
    features, batch, _ = grid(240, seed=1, unlabelled=0.1)
    optimizer = torch.optim.Adam(parameters, lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        objective(features | extra(features), batch, where)["loss"].backward()
        optimizer.step()


def made():
    torch.manual_seed(0)
    mapping = VillaMapping(ATTRIBUTES)
    mapping.attach({"frozen/image.tokens": WIDTH, "frozen/text@classes.pooled": WIDTH})
    return mapping


@pytest.fixture(scope="module")
def mapping():
    mapping = made()
    learn(mapping, context(), 60, mapping.parameters())
    return mapping


def f1(found, truth):
    return (2 * (found & truth).sum() / (found.sum() + truth.sum())).item()


def test_the_mapping_finds_regions_of_new_pictures(mapping):
    features, batch, truth = grid(64, seed=2)
    found, fit = mapping.pairs(features, batch)
    assert f1(found, truth) >= 0.95
    assert f1(made().pairs(features, batch)[0], truth) < 0.5
    assert torch.equal(fit == -torch.inf, ~found.any(dim=2))
    # Only what the picture is known to show is looked for.
    assert not found[~(batch["label"] == 1)[:, None].expand_as(found)].any()


class Tower(torch.nn.Module):
    """One block over regions and a class token: what is pooled need not say which region shows what."""

    def __init__(self):
        super().__init__()
        self.cls = torch.nn.Parameter(torch.randn(1, 1, WIDTH) * 0.1)
        self.block = torch.nn.TransformerEncoderLayer(WIDTH, 2, 64, dropout=0.0, batch_first=True)
        self.project = torch.nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, features):
        regions = features["frozen/image.tokens"]
        out = self.project(self.block(torch.cat([self.cls.expand(len(regions), -1, -1), regions], dim=1)))
        return {"image.tokens": out[:, 1:], "image.mask": features["frozen/image.mask"], "image.pooled": out[:, 0]}


def test_texts_find_regions_better_than_after_whole_images_alone(mapping):
    """The same tower learns with regions and without; then texts rank the regions of new pictures."""
    found = {}
    for objective in (VillaRegions(mapping, mapping_epochs=1, regions=3), InfoNCE()):
        torch.manual_seed(0)
        tower = Tower()
        learn(objective, context(epoch=1), 25, tower.parameters(), tower)
        features, _, truth = grid(64, seed=2)
        with torch.no_grad():
            scores = normalize(tower(features)["image.tokens"], dim=-1) @ features["frozen/text@classes.pooled"].T
        found[type(objective)] = average_precision_score(truth.flatten(0, 1), scores.flatten(0, 1), average="macro")
    assert found[VillaRegions] > 0.8
    assert found[InfoNCE] < 0.4


def test_stages_take_turns(mapping):
    features, batch, _ = grid(8, seed=3)
    tokens = features["frozen/image.tokens"].clone().requires_grad_()
    features |= {"image.tokens": tokens, "image.mask": features["frozen/image.mask"]}
    objective = VillaRegions(mapping, mapping_epochs=2, whole=False)
    mapping.zero_grad()
    first = objective(features, batch, context(epoch=1))["loss"]
    first.backward()
    assert first.item() == mapping(features, batch, context())["loss"].item()
    assert tokens.grad is None
    assert mapping.weight1.grad.abs().sum() > 0
    mapping.zero_grad()
    objective(features, batch, context(epoch=2))["loss"].backward()
    assert tokens.grad.abs().sum() > 0
    assert mapping.weight1.grad is None


def test_regions_that_show_the_same_do_not_compete():
    kinds = set_numbers(torch.tensor([[[1, 0, 0], [1, 1, 0]], [[1, 0, 0], [0, 0, 0]]]).bool())
    taken = torch.tensor([[True, True], [True, False]])
    target, valid = same_kind(kinds, taken, context())(slice(0, 4), slice(0, 4), torch.zeros(4, 4))
    assert target.tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert valid.all(dim=0).tolist() == [True, True, True, False]


def test_an_attribute_that_everybody_has_teaches_nothing():
    mapping = made()
    features, batch, _ = grid(4, seed=3)
    loss = mapping(features, batch | {"label": torch.ones(4, ATTRIBUTES)}, context())["loss"]
    loss.backward()
    assert loss.item() == 0
    assert mapping.weight1.grad.abs().sum() == 0


def test_one_label_per_image_is_a_set_of_one():
    mapping = made()
    features, _, _ = grid(6, seed=3)
    label = torch.arange(6) % 4
    many = {"label": one_hot(label, ATTRIBUTES).float()}
    losses = [mapping(features, batch, context())["loss"].item() for batch in ({"label": label}, many)]
    assert losses[0] == losses[1] > 0


def wrong_labels():
    features, batch, _ = grid(4, seed=3)
    made()(features, batch | {"label": batch["label"][:, :3], "valid": batch["valid"][:, :3]}, context())


def wrong_patches():
    features, batch, _ = grid(4, seed=3)
    features |= {"image.tokens": torch.zeros(4, 4, WIDTH), "image.mask": torch.ones(4, 4, dtype=torch.bool)}
    VillaRegions(made(), 0, whole=False)(features, batch, context())


def wrong_number():
    features, batch, _ = grid(4, seed=3)
    features["frozen/text@classes.pooled"] = torch.zeros(3, WIDTH)
    made()(features, batch, context())


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: VillaMapping(0), "attributes"),
        (lambda: VillaMapping(temperature=0.0), "temperature"),
        (lambda: VillaMapping(keep=1.0), "keep"),
        (lambda: VillaMapping().attach({"frozen/image.tokens": 4, "frozen/text@classes.pooled": 5}), "one space"),
        (lambda: VillaRegions(VillaMapping(), regions=0), "regions"),
        (wrong_labels, "3 classes"),
        (wrong_number, "names 3"),
        (wrong_patches, "same patches"),
    ],
)
def test_refused(make, named):
    with pytest.raises(ValueError, match=named):
        make()
