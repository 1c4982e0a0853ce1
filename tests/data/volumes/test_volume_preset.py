"""Volume presets: what is hashed, what is computed, what is refused."""

from dataclasses import asdict, replace

import pytest
import torch

from domainvl.data.volumes.preset import CT_CLIP, HLIP, MERLIN, VolumePreset

PRESET = VolumePreset("toy", (1.0, 2.0, 3.0), (4, 6, 5), ((-1000.0, 200.0), (0.0, 100.0)), (0.5, 0.0), (0.5, 2.0))
OTHER = {
    "spacing": (1.0, 2.0, 4.0),
    "size": (4, 6, 6),
    "windows": ((-1000.0, 200.0), (0.0, 101.0)),
    "mean": (0.5, 0.1),
    "std": (0.5, 2.1),
    "crop": "resize",
    "axes": "SPR",
    "version": 2,
}


def test_the_hash_sees_every_field_but_the_name():
    assert set(OTHER) == set(asdict(PRESET)) - {"name"}
    digests = {replace(PRESET, **{field: value}).digest for field, value in OTHER.items()}
    assert len(digests | {PRESET.digest}) == len(OTHER) + 1
    assert replace(PRESET, name="another").digest == PRESET.digest


def test_lists_as_yaml_gives_them_make_the_same_preset():
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(PRESET).items()}
    values["windows"] = [[-1000, 200], [0, 100]]
    again = VolumePreset(**values)
    assert again == PRESET
    assert again.digest == PRESET.digest
    assert hash(again) == hash(PRESET)


def test_windows_become_channels():
    volume = torch.tensor([-3000, -1000, -400, 50, 200, 3000], dtype=torch.int16).view(1, 1, 1, 6)
    out = PRESET.normalise(volume)
    assert out.shape == (1, 2, 1, 1, 6)
    torch.testing.assert_close(out[0, 0, 0, 0], torch.tensor([-1.0, -1.0, 0.0, 0.75, 1.0, 1.0]))
    torch.testing.assert_close(out[0, 1, 0, 0], torch.tensor([0.0, 0.0, 0.0, 0.25, 0.5, 0.5]))


@pytest.mark.parametrize("shape", [(4, 6, 5), (7, 3, 9), (9, 11, 8), (1, 1, 1)])
def test_fit_keeps_the_centre_and_pads_with_air(shape):
    volume = torch.arange(1, 1 + torch.Size(shape).numel(), dtype=torch.int16).view(shape)
    out = PRESET.fit(volume)
    assert out.shape == PRESET.size
    assert out.dtype == torch.int16
    taken = tuple(
        slice(max(have - want, 0) // 2, max(have - want, 0) // 2 + want)
        for have, want in zip(shape, out.shape, strict=True)
    )
    put = tuple(
        slice(max(want - have, 0) // 2, max(want - have, 0) // 2 + min(have, want))
        for have, want in zip(shape, out.shape, strict=True)
    )
    assert torch.equal(out[put], volume[taken])
    rest = out.clone()
    rest[put] = -1000
    assert torch.equal(rest, torch.full(PRESET.size, -1000, dtype=torch.int16))


def test_air_is_black_in_every_window():
    deep = replace(PRESET, windows=((-1150.0, 350.0), (0.0, 100.0)), mean=(0.0, 0.0), std=(1.0, 1.0))
    assert deep.air == -1150
    assert torch.equal(deep(torch.full((1, 1, 1), deep.air)), torch.zeros(2, 4, 6, 5))


def test_resize_keeps_the_extent():
    ramp = torch.arange(8.0).view(8, 1, 1).expand(8, 6, 5)
    out = replace(PRESET, crop="resize").fit(ramp)
    torch.testing.assert_close(out[:, 0, 0], torch.tensor([0.5, 2.5, 4.5, 6.5]))
    assert replace(PRESET, crop="resize").fit(ramp.to(torch.int16)).dtype == torch.int16


def test_spacing_follows_the_axes():
    assert PRESET.grid_spacing == (3.0, 2.0, 1.0)
    assert replace(PRESET, axes="SRA").grid_spacing == (3.0, 1.0, 2.0)
    assert replace(PRESET, axes="RAS").grid_spacing == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("preset", "low", "high"),
    [(CT_CLIP, -1.0, 1.0), (HLIP, -0.449 / 0.226, 0.551 / 0.226), (MERLIN, 0.0, 1.0)],
    ids=lambda x: getattr(x, "name", None),
)
def test_published_presets_reach_the_range_that_their_authors_feed(preset, low, high):
    air, bone = (preset.normalise(torch.full((1, 1, 1), value)) for value in (-2000, 2000))
    torch.testing.assert_close(float(air), low, atol=1e-3, rtol=0)
    torch.testing.assert_close(float(bone), high, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("spacing", (1.0, 0.0, 1.0), "spacing must be three positive"),
        ("size", (4, 6), r"size must be three positive numbers"),
        ("windows", ((200.0, -1000.0), (0.0, 100.0)), "pairs low < high"),
        ("mean", (0.5,), r"one value per window \(2\)"),
        ("std", (0.5, 0.0), "std above 0"),
        ("crop", "body", "centre, resize"),
        ("axes", "SSL", "axes must name one of S I"),
        ("axes", "XYZ", "'XYZ'"),
    ],
)
def test_what_cannot_be_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(PRESET, **{field: value})
    with pytest.raises(ValueError, match="D, H, W"):
        PRESET.fit(torch.zeros(3, 3))
