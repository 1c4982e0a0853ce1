"""What is learned across the slices of a volume: the start, and what each method may see."""

from functools import partial
from types import SimpleNamespace

import pytest
import timm
import torch
import tower_toys
from adapters.toys import attached, moved, pictures, scores, toy
from safetensors.torch import load_file, save_file

from domainvl.adapters import MMRL, DepthEmbedding, LoRA, SideTuning, SliceAttention, SliceTransformer, STAdapter
from domainvl.adapters._slices import as_patches, as_volume
from domainvl.adapters.base import Adapter
from domainvl.hub import make_adapter
from domainvl.tokens import TokenState
from domainvl.towers import Slices, TimmViT

TRANSFER = {
    "LoRA": partial(LoRA, parts=["up", "down"], dropout=0.0),
    "STAdapter": partial(STAdapter, width=8),
    "STAdapter cube": partial(STAdapter, width=4, kernel=(3, 3, 3), first_block=1),
    "DepthEmbedding": DepthEmbedding,
    "SideTuning": partial(SideTuning, width=6),
    "SliceAttention": partial(SliceAttention, width=8),
    "SliceTransformer": partial(SliceTransformer, width=8, heads=2),
}
EVERY = [name for name in tower_toys.TOYS if name.startswith("slices")]

every = pytest.mark.parametrize("name", TRANSFER)


class Lifted(torch.nn.Module):
    """The image side of a backbone over a tower toy."""

    def __init__(self, name):
        super().__init__()
        one = tower_toys.TOYS[name]()
        self.image, self.library, self.logit_scale = one.tower, one.library, torch.nn.Parameter(torch.tensor(2.0))
        self.text, self.volumes = one.tower, one.inputs

    def blank(self):
        return torch.zeros_like(self.volumes[:1])


@every
@pytest.mark.parametrize("where", EVERY)
@torch.no_grad()
def test_the_start_is_the_mean_over_slices_to_the_bit(name, where):
    backbone = Lifted(where)
    tower = backbone.image
    plain = Adapter().encode("image", tower, backbone.volumes)["image.pooled"]
    mean = tower.project(tower.per_slice(tower.run(tower.embed(backbone.volumes))).mean(dim=1))
    assert torch.equal(plain, mean)
    adapter = TRANSFER[name](**({"sides": ["image"]} if name == "LoRA" else {}))
    adapter.attach(backbone)
    assert torch.equal(adapter.eval().encode("image", tower, backbone.volumes)["image.pooled"], plain)
    moved(adapter)
    assert not torch.equal(adapter.encode("image", tower, backbone.volumes)["image.pooled"], plain)


@every
def test_a_saved_one_says_the_same(name, tmp_path):
    backbone = toy("slices")
    adapter = moved(attached(TRANSFER[name](), backbone))
    expected = scores(adapter, backbone)["image.logits"]
    fresh = toy("slices")
    again = attached(make_adapter(type(adapter).__name__, adapter.config()), fresh)
    again.load_tensors(load_file(write(adapter, tmp_path / "adapter.safetensors")))
    assert torch.equal(scores(again, fresh)["image.logits"], expected)


def write(adapter, path):
    save_file({name: tensor.contiguous() for name, tensor in adapter.tensors().items()}, path)
    return path


def reach(adapter, stop):
    """Which slices of 3 another value in the last one changes, behind block `stop - 1`."""
    backbone = toy("slices")
    tower = backbone.image
    moved(attached(adapter, backbone))
    first = pictures(1)
    second = first.clone()
    second[:, 2] += 1
    with torch.no_grad():
        states = [tower.run(tower.embed(x), partial(adapter.edit, "image"), stop=stop).tokens for x in (first, second)]
    return (states[0] - states[1]).abs().amax(dim=(1, 2)).gt(1e-5).tolist()


def test_slices_see_as_far_as_the_convolutions_reach():
    assert reach(STAdapter(width=8), stop=1) == [False, True, True]
    assert reach(STAdapter(width=8), stop=2) == [True, True, True]
    assert reach(STAdapter(width=8, kernel=(1, 3, 3)), stop=3) == [False, False, True]
    assert reach(MMRL(tokens=2, width=8, first_block=0), stop=3) == [False, False, True]


@pytest.mark.parametrize(
    ("name", "by_order"),
    [
        ("SliceAttention", False),
        ("SliceTransformer", True),
        ("STAdapter", True),
        ("SideTuning", True),
        ("DepthEmbedding", True),
    ],
)
def test_what_the_order_of_slices_means(name, by_order):
    backbone = toy("slices")
    adapter = moved(attached(TRANSFER[name](), backbone))
    with torch.no_grad():
        ways = [adapter.encode("image", backbone.image, x)["image.pooled"] for x in (pictures(), pictures().flip(1))]
    assert (float((ways[0] - ways[1]).abs().max()) > 1e-4) == by_order


def test_attention_is_a_weighted_mean():
    backbone = toy("slices")
    tower = backbone.image
    adapter = moved(attached(SliceAttention(width=8), backbone))
    with torch.no_grad():
        slices = tower.per_slice(tower.run(tower.embed(pictures())))
        weights = adapter.weights(slices)
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(5))
        assert float((weights - 1 / 3).abs().max()) > 0.01
        expected = tower.project((weights[..., None] * slices).sum(dim=1))
        found = adapter.encode("image", tower, pictures())["image.pooled"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_attention_finds_the_slice_that_tells():
    """One slice of 3 holds the class, the others are noise: attention learns to look there, the mean cannot."""
    draw = torch.Generator().manual_seed(0)
    backbone = toy("slices")
    adapter = attached(SliceAttention(width=16), backbone)
    size = backbone.image.pooled_width
    mark, ways = torch.randn(size, generator=draw) * 3, torch.randn(2, size, generator=draw)
    label = torch.arange(64) % 2
    slices = torch.randn(64, 3, size, generator=draw)
    place = torch.randint(3, (64,), generator=draw)
    slices[torch.arange(64), place] = mark + ways[label]
    optimizer = torch.optim.Adam(adapter.parameters(), 0.01)
    for _ in range(60):
        pooled = (adapter.weights(slices)[..., None] * slices).sum(dim=1)
        loss = torch.nn.functional.cross_entropy(pooled @ ways.T, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float((adapter.weights(slices).argmax(dim=1) == place).float().mean()) > 0.95


def test_side_tuning_sends_no_gradient_through_the_model():
    backbone = toy("slices")
    adapter = moved(attached(SideTuning(width=6), backbone))
    entered = backbone.image.embed(pictures())
    entered = entered.step(entered.tokens.requires_grad_(True))
    with torch.no_grad():
        plain = backbone.image.run(entered).tokens
    done = backbone.image.run(entered, partial(adapter.edit, "image"))
    assert torch.equal(done.tokens, plain)
    (gradient,) = torch.autograd.grad(done.notes["side_tuning"].sum(), entered.tokens, allow_unused=True)
    assert gradient is None


@pytest.mark.parametrize(("grid", "parts"), [((2, 3), 4), ((4, 2, 3), 1), ((2, 3), 1)])
def test_patches_lie_in_the_volume_where_they_were(grid, parts):
    rows, length = 2 * parts, torch.Size(grid).numel()
    state = TokenState(torch.arange(rows * length * 5.0).view(rows, length, 5), grid=grid, parts=parts)
    volume = as_volume(state.tokens, state)
    assert torch.equal(as_patches(volume, state), state.tokens)
    depth = volume.shape[2]
    assert depth == (grid[0] if len(grid) == 3 else parts)
    # Volume 1, second-last slice and row, last column.
    z, y, x = max(depth - 2, 0), 0, 2
    flat = (depth + z) * 6 + y * 3 + x
    assert volume[1, 3, z, y, x] == flat * 5 + 3


def test_patches_are_found_between_other_tokens():
    state = TokenState(torch.zeros(2, 7, 4), prefix=1, grid=(2, 3))
    assert state.patches() == slice(1, 7)
    fuller = state.insert(torch.ones(2, 4), at=1, name="front").insert(torch.ones(3, 4), at=9, name="back")
    assert fuller.patches() == slice(3, 9)
    assert not fuller.tokens[:, fuller.patches()].any()
    for broken in (state.insert(torch.ones(1, 4), at=4, name="amid"), TokenState(torch.zeros(2, 7, 4))):
        with pytest.raises(RuntimeError, match="patches"):
            broken.patches()


@pytest.mark.parametrize("where", ["slices", "inflated", "hlip"])
def test_every_layer_gets_its_own_position(where):
    backbone = toy(where)
    adapter = attached(DepthEmbedding(), backbone)
    assert adapter.positions.shape == (3, backbone.image.width)
    with torch.no_grad():
        adapter.positions.copy_(torch.arange(1.0, 4.0)[:, None])
        state = backbone.image.embed(pictures(2))
        added = adapter.edit("image", 0, state).tokens - state.tokens
    assert not added[:, : state.prefix].any()
    layers = as_volume(added[:, state.patches()], state).mean(dim=(1, 3, 4))
    torch.testing.assert_close(layers, torch.tensor([[1.0, 2.0, 3.0]] * 2), rtol=0, atol=1e-5)


def test_a_volume_of_another_depth_is_refused():
    backbone = Lifted("slices_hf_clip")
    adapter = DepthEmbedding()
    adapter.attach(backbone)
    with pytest.raises(ValueError, match="made for 5 slices or layers of patches, this volume has 4"):
        adapter.encode("image", backbone.image, backbone.volumes[:, :, :4])


# What the methods are compared at: 300,000 numbers on a ViT-B/16, whose q, k and v are one layer.
EQUAL = {
    "LoRA": partial(LoRA, rank=8, sides=["image"], dropout=0.0),
    "STAdapter": partial(STAdapter, width=16),
    "SideTuning": partial(SideTuning, width=29),
    "SliceAttention": partial(SliceAttention, width=195),
    "SliceTransformer": partial(SliceTransformer, width=104),
}


@pytest.mark.parametrize("name", EQUAL)
def test_methods_can_be_made_equally_large(name):
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224", num_classes=0)
        tower = Slices(TimmViT(model)).requires_grad_(False)
        adapter = EQUAL[name]()
        adapter.attach(SimpleNamespace(image=tower, text=tower, library=model, logit_scale=torch.zeros(())))
    learned = sum(parameter.numel() for parameter in adapter.parameters())
    assert abs(learned - 300_000) < 7_500
