"""2-D towers over volumes: what inflation keeps, what slices are to each other."""

from __future__ import annotations

import library_toys as library
import pytest
import timm
import torch
from tower_toys import toy

from domainvl.towers import HFClipImage, Inflated, Slices, TimmViT
from domainvl.towers.inflate import _planar, sinusoidal

PLANAR = ("hf_clip_image", "hf_siglip_image", "openclip_image", "timm_vit", "timm_dinov2_registers")
# One convolution for another, and positions added in another order.
ROUNDING = 4e-6

every = pytest.mark.parametrize("name", PLANAR)


def lifted(name: str, depth: int = 3, patch: int = 2, **options: object) -> tuple[Inflated, torch.Tensor]:
    """A tower of `depth` patches and one slice of its own size, `[2, 3, S, S]`."""
    one = toy(name)
    side = one.inputs.shape[-1]
    return Inflated(one.tower, (depth * patch, side, side), patch, **options), one.inputs[:2]


@every
@pytest.mark.parametrize("channels", [1, 3])
@torch.no_grad()
def test_identical_slices_give_the_patches_of_the_2d_model(name, channels):
    tower, slices = lifted(name, channels=channels, positions="learned")
    if channels == 1:
        slices = slices[:, :1].expand(-1, 3, -1, -1)
    volume = slices[:, :channels, None].expand(-1, -1, 6, -1, -1)
    flat, deep = toy(name).tower.embed(slices), tower.embed(volume)
    assert deep.grid == (3, *flat.grid)
    assert deep.prefix == flat.prefix
    torch.testing.assert_close(deep.tokens[:, : deep.prefix], flat.tokens[:, : flat.prefix], atol=ROUNDING, rtol=4e-6)
    for layer in deep.tokens[:, deep.prefix :].unflatten(1, (3, -1)).unbind(1):
        torch.testing.assert_close(layer, flat.tokens[:, flat.prefix :], atol=ROUNDING, rtol=4e-6)


@every
@torch.no_grad()
def test_centre_reads_the_slice_in_the_middle_alone(name):
    tower, slices = lifted(name, depth=2, patch=3, channels=3, init="centre", positions="learned")
    volume = torch.randn(2, 3, 6, *slices.shape[-2:])
    volume[:, :, 4] = slices
    flat, deep = toy(name).tower.embed(slices), tower.embed(volume)
    second = deep.tokens[:, deep.prefix :].unflatten(1, (2, -1))[:, 1]
    torch.testing.assert_close(second, flat.tokens[:, flat.prefix :], atol=ROUNDING, rtol=4e-6)


@every
def test_depth_shows_in_sinusoidal_positions_alone(name):
    """Without a term for depth a frozen tower cannot tell a volume from one that stands on its head."""
    for positions, alike in (("learned", True), ("sinusoidal", False)):
        tower, slices = lifted(name, patch=1, positions=positions)
        volume = torch.randn(2, 1, 3, *slices.shape[-2:], generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            difference = float((tower(volume) - tower(volume.flip(2))).abs().max())
        assert (difference < 1e-4) == alike


def test_what_is_trained_and_what_is_not():
    tower, _ = lifted("hf_clip_image", positions="learned")
    assert {key for key, p in tower.named_parameters() if p.requires_grad} == {"depth_positions"}
    volume = torch.randn(1, 1, 6, 32, 32)
    tower(volume).sum().backward()
    assert float(tower.depth_positions.grad.abs().max()) > 0
    model = library.hf_clip("sdpa", library.END).requires_grad_(True)
    whole = Inflated(HFClipImage(model), (4, 32, 32), 2)
    assert whole.patch.weight.requires_grad


@torch.no_grad()
def test_another_grid_interpolates_the_positions():
    """A table that is linear along both axes stays so in the middle, where cubic weights reach no border."""
    tower, _ = lifted("hf_clip_image", positions="learned")
    table = tower.tower.vision.embeddings.position_embedding.weight
    kept = table.clone()
    try:
        ramp = torch.arange(4.0)
        table[1:] = (ramp[:, None] * 10 + ramp[None]).flatten()[:, None]
        wide = Inflated(tower.tower, (2, 64, 64), 2, positions="learned")
        found = wide._positions(_planar(wide.tower))[:, 0].view(8, 8)[3:5, 3:5]
    finally:
        table.copy_(kept)
    place = (torch.arange(8.0)[3:5] + 0.5) / 2 - 0.5
    torch.testing.assert_close(found, place[:, None] * 10 + place[None], atol=1e-4, rtol=0)


def test_sinusoidal_positions_differ_everywhere():
    table = sinusoidal(64, 33)
    assert table.shape == (64, 33)
    apart = torch.cdist(table, table) + torch.eye(64) * 9
    assert float(apart.min()) > 0.5


@torch.no_grad()
def test_slices_are_independent_and_their_order_does_not_count():
    one = toy("slices_hf_clip")
    volume = one.inputs
    torch.testing.assert_close(one.tower(volume)[:1], one.tower(volume[:1]), atol=4e-6, rtol=0)
    torch.testing.assert_close(one.tower(volume), one.tower(volume.flip(2)), atol=1e-6, rtol=0)
    state = one.tower.run(one.tower.embed(volume))
    assert state.parts == volume.shape[2]
    changed = volume.clone()
    changed[:, :, 2] += 1
    apart = one.tower.per_slice(one.tower.run(one.tower.embed(changed))) - one.tower.per_slice(state)
    assert apart.abs().amax(dim=(0, 2)).gt(1e-3).tolist() == [False, False, True, False, False]


@torch.no_grad()
def test_windows_are_the_colours_of_a_slice():
    planar = toy("hf_clip_image")
    tower = Slices(planar.tower)
    windows = planar.inputs[:, :, None]
    assert torch.equal(tower(windows), planar.tower(planar.inputs))


@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
@torch.no_grad()
def test_chunks_change_nothing(chunk):
    one = toy("slices_hf_clip")
    chunked = Slices(one.tower.tower, chunk)
    torch.testing.assert_close(chunked(one.inputs), one.tower(one.inputs), atol=4e-6, rtol=0)


@torch.no_grad()
def test_slices_of_a_cnn():
    from domainvl.towers import timm_tower

    model = library.shuffled(timm.create_model("test_resnet", pretrained=False, num_classes=0))
    tower = Slices(timm_tower(model))
    assert not tower.token_editing
    volume = library.volumes(4, 64, 64)
    planar = model(volume[0].transpose(0, 1).expand(-1, 3, -1, -1)).mean(dim=0)
    torch.testing.assert_close(tower(volume)[0], planar, atol=4e-6, rtol=1e-5)


def _clip(**options: object) -> Inflated:
    return Inflated(toy("hf_clip_image").tower, **{"size": (4, 32, 32), "patch_depth": 2, **options})


REFUSED = {
    "rotary": (lambda: Inflated(toy("timm_eva02").tower, (2, 28, 28), 2), TypeError, "no rotary"),
    "text": (lambda: Inflated(toy("hf_clip_text").tower, (2, 32, 32), 2), TypeError, "HFClipText cannot be inflated"),
    "channels": (lambda: _clip(channels=2), ValueError, "channels must be 1 or 3 here, got 2"),
    "init": (lambda: _clip(init="first"), ValueError, "mean, centre"),
    "positions": (lambda: _clip(positions="none"), ValueError, "learned, sinusoidal"),
    "size": (lambda: _clip(size=(5, 32, 32)), ValueError, r"whole patches of \(2, 8, 8\)"),
    "input": (lambda: _clip()(torch.zeros(1, 1, 6, 32, 32)), ValueError, r"\[B, 1, 4, 32, 32\], got"),
    "windows": (lambda: Slices(toy("timm_vit").tower)(torch.zeros(1, 2, 3, 32, 32)), ValueError, "one or three"),
    "picture": (lambda: Slices(toy("timm_vit").tower)(torch.zeros(1, 3, 32, 32)), ValueError, r"\[B, C, D, H, W\]"),
    "chunk": (lambda: Slices(toy("timm_vit").tower, 0), ValueError, "chunk must be positive"),
    "twice": (lambda: Slices(toy("slices_timm").tower), TypeError, "slices already"),
    "vanished positions": (
        lambda: Inflated(TimmViT(timm.create_model("test_vit", pos_embed="none", img_size=32)), (2, 32, 32), 2),
        TypeError,
        "TimmViT cannot be inflated",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused(case):
    build, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        build()
