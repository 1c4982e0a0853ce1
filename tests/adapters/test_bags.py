"""Heads over bags of tiles: add a row to HEADS."""

import inspect
from functools import partial

import pytest
import torch
from adapters.toys import CLASSES, attached, class_features, moved, pictures, toy
from torch.nn.functional import cross_entropy, normalize, pad

from domainvl.adapters import ABMIL, CLAM, Compose, CoOp, LinearProbe, ViLaMIL
from domainvl.adapters.base import Adapter
from domainvl.hub import make_adapter
from domainvl.objectives import ClamInstances
from domainvl.objectives.base import Context

HEADS = {
    "ABMIL": partial(ABMIL, hidden=12, width=6),
    "ABMIL of joint features": partial(ABMIL, hidden=12, width=6, gated=False, deep=False),
    "CLAM": partial(CLAM, hidden=12, width=6),
    "ViLaMIL": partial(ViLaMIL, prototypes=4, width=6),
    "LinearProbe": LinearProbe,
    "CoOp and ViLaMIL": lambda: Compose([CoOp(tokens=2), ViLaMIL(prototypes=3, width=5)]),
}
LABEL = torch.tensor([0, 2, 1, 1])
LENGTHS = torch.tensor([7, 4, 1, 7])

every = pytest.mark.parametrize("name", HEADS)


def bag():
    draw = torch.Generator().manual_seed(0)
    tower = toy("hf_clip").image
    mask = torch.arange(7) < LENGTHS[:, None]
    tiles, deep = (torch.randn(4, 7, size, generator=draw) for size in (tower.out_dim, tower.pooled_width))
    return {"image.tokens": tiles, "image@deep.tokens": deep, "image.mask": mask}


def trained(name):
    backbone = toy("hf_clip")
    return moved(attached(HEADS[name](), backbone)), backbone


def scores(adapter, backbone, tiles):
    with torch.no_grad():
        features = {"text.pooled": class_features(backbone)}
    features |= tiles | adapter.pool_tiles(tiles)
    return features | adapter.logits(features, backbone.scale())


def changed(tiles, change):
    return {key: change(value) for key, value in tiles.items()}


@every
@torch.no_grad()
def test_the_order_of_tiles_means_nothing(name):
    adapter, backbone = trained(name)
    expected = scores(adapter, backbone, bag())["image.logits"]
    order = torch.randperm(7, generator=torch.Generator().manual_seed(5))
    found = scores(adapter, backbone, changed(bag(), lambda value: value[:, order]))["image.logits"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@every
@torch.no_grad()
def test_what_fills_a_bag_up_means_nothing(name):
    adapter, backbone = trained(name)
    whole = bag()
    expected = scores(adapter, backbone, whole)["image.logits"]
    longer = {key: pad(value, (0, 0, 0, 3), value=9.0) for key, value in whole.items() if value.dim() == 3}
    longer["image.mask"] = pad(whole["image.mask"], (0, 3))
    noisy = {
        key: value.where(longer["image.mask"][..., None], 1e3) for key, value in longer.items() if value.dim() == 3
    }
    for filled in (longer, longer | noisy):
        torch.testing.assert_close(scores(adapter, backbone, filled)["image.logits"], expected, rtol=1e-5, atol=1e-5)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = changed(whole, lambda value, row=row, length=length: value[row : row + 1, :length])
        found = scores(adapter, backbone, alone)["image.logits"]
        torch.testing.assert_close(found, expected[row : row + 1], rtol=1e-5, atol=1e-5)


@every
def test_every_parameter_gets_a_gradient(name):
    adapter, backbone = trained(name)
    with torch.enable_grad():
        text = adapter.encode("text", backbone.text, backbone.tokenize([adapter.prompt(f"{n} {{}}") for n in CLASSES]))
        features = bag() | text
        features |= adapter.pool_tiles(features)
        found = adapter.logits(features, backbone.scale())["image.logits"]
        # Weighted, since a bias that moves all classes alike is invisible to a softmax.
        (found * torch.randn(found.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    for key, parameter in adapter.named_parameters():
        assert parameter.grad is not None, key
        assert float(parameter.grad.abs().max()) > 0, key


@every
def test_a_saved_one_says_the_same(name):
    adapter, backbone = trained(name)
    again = attached(make_adapter(type(adapter).__name__, adapter.config()), toy("hf_clip"))
    again.load_tensors(adapter.tensors())
    assert set(adapter.config()) == set(inspect.signature(type(adapter)).parameters)
    assert torch.equal(scores(again, backbone, bag())["image.logits"], scores(adapter, backbone, bag())["image.logits"])


@torch.no_grad()
def test_attention_is_its_formula():
    adapter, backbone = trained("CLAM")
    tiles = bag()
    found = scores(adapter, backbone, tiles)["image.logits"]
    row, length = 1, int(LENGTHS[1])
    hidden = torch.relu(tiles["image@deep.tokens"][row, :length] @ adapter.embedding.weight.T + adapter.embedding.bias)
    content, gate, score = adapter.attention.content, adapter.attention.gate, adapter.attention.score
    for number in range(len(CLASSES)):
        own = torch.tanh(content(hidden)) * torch.sigmoid(gate(hidden)) @ score.weight[number]
        pooled = (own.exp() / own.exp().sum()) @ hidden
        expected = pooled @ adapter.classifier.weight[number] + adapter.classifier.bias[number]
        torch.testing.assert_close(found[row, number], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_without_a_head_a_slide_is_its_mean_tile():
    found = Adapter().pool_tiles(bag())["image.pooled"]
    for row, length in enumerate(LENGTHS.tolist()):
        expected = normalize(bag()["image.tokens"][row, :length], dim=-1).mean(dim=0)
        torch.testing.assert_close(found[row], expected)


@pytest.mark.parametrize(("name", "least"), [("ABMIL", 0.85), ("ViLaMIL", 0.7)])
def test_a_head_finds_the_tile_that_tells(name, least):
    """One tile of 24 holds the class; heads learn to look there, the mean tile shows less."""
    draw = torch.Generator().manual_seed(0)
    backbone = toy("hf_clip")
    torch.manual_seed(0)
    adapter = attached(HEADS[name](), backbone).train()
    size, deep = backbone.image.out_dim, backbone.image.pooled_width
    label = torch.arange(96) % 3
    ways = normalize(torch.randn(3, size, generator=draw), dim=-1)
    tiles = normalize(torch.randn(96, 24, size, generator=draw), dim=-1)
    tiles[torch.arange(96), torch.randint(24, (96,), generator=draw)] = ways[label]
    lifted = tiles @ torch.randn(size, deep, generator=draw)
    whole = {"image.tokens": tiles, "image@deep.tokens": lifted, "image.mask": torch.ones(96, 24, dtype=torch.bool)}
    train, test = (changed(whole, lambda value, rows=rows: value[rows]) for rows in (slice(0, 60), slice(60, 96)))
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        cross_entropy(scores(adapter, backbone, train)["image.logits"], label[:60]).backward()
        optimizer.step()
    with torch.no_grad():
        found = scores(adapter.eval(), backbone, test)["image.logits"].argmax(dim=-1)
        mean = (test["image.tokens"].mean(dim=1) @ ways.T).argmax(dim=-1)
    assert float((mean == label[60:]).float().mean()) < least
    assert float((found == label[60:]).float().mean()) > least


def instances(subtyping=False, **settings):
    torch.manual_seed(3)
    objective = ClamInstances(subtyping=subtyping, **settings)
    objective.attach({"image@bag.tokens": 12, "image.logits": 3})
    return objective


@pytest.mark.parametrize("subtyping", [False, True])
@torch.no_grad()
def test_instances_are_the_ends_of_the_attention(subtyping):
    """Slide by slide and tile by tile; slides of 4 tiles and of 1 have fewer than 2 k."""
    adapter, backbone = trained("CLAM")
    features = scores(adapter, backbone, bag())
    objective = instances(subtyping, tiles=3)
    weight, bias = objective.classifiers.weight.view(3, 2, 12), objective.classifiers.bias.view(3, 2)
    losses = []
    for row, (label, length) in enumerate(zip(LABEL.tolist(), LENGTHS.tolist(), strict=True)):
        tiles, attention = features["image@bag.tokens"][row], features["image@bag.attention"][row, :, :length]
        k = min(3, max(length // 2, 1))

        def told(positions, of, target, tiles=tiles):
            return cross_entropy(tiles[positions] @ weight[of].T + bias[of], torch.full((len(positions),), target))

        order = attention[label].argsort(descending=True)
        loss = (told(order[:k], label, 1) + told(order[-k:], label, 0)) / 2
        if subtyping:
            others = [c for c in range(3) if c != label]
            loss = (loss + sum(told(attention[c].argsort(descending=True)[:k], c, 0) for c in others)) / 3
        losses.append(loss)
    found = objective(features, {"label": LABEL}, Context(scale=torch.tensor(1.0), epoch=0))["loss"]
    torch.testing.assert_close(found, torch.stack(losses).mean())


def test_pictures_are_no_slides():
    for name in ("ABMIL", "CLAM", "ViLaMIL"):
        adapter, backbone = trained(name)
        features = adapter.encode("image", backbone.image, pictures()) | {"text.pooled": class_features(backbone)}
        with pytest.raises(TypeError, match=f"{name} pools the tiles of slides.*SlideClassification"):
            adapter.logits(features, backbone.scale())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(ABMIL, hidden=0), "ABMIL: hidden and width must be positive"),
        (partial(CLAM, dropout=1.0), "CLAM: dropout must lie in 0..1"),
        (partial(ViLaMIL, prototypes=0), "ViLaMIL: prototypes and width"),
        (partial(ClamInstances, tiles=0), "ClamInstances: tiles must be positive"),
        (lambda: Compose([ABMIL(), ViLaMIL()]), "ABMIL and ViLaMIL both pool the tiles of slides"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_instances_want_one_label_and_fitting_branches():
    features = {
        "image@bag.tokens": torch.zeros(1, 4, 12),
        "image@bag.attention": torch.zeros(1, 2, 4),
        "image.logits": torch.zeros(1, 3),
        "image.mask": torch.ones(1, 4, dtype=torch.bool),
    }
    context = Context(scale=torch.tensor(1.0), epoch=0)
    with pytest.raises(ValueError, match="multi-label"):
        instances()(features, {"label": torch.zeros(1, 3)}, context)
    with pytest.raises(ValueError, match="2 branches for 3 classes"):
        instances()(features, {"label": torch.zeros(1, dtype=torch.long)}, context)
