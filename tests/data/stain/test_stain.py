"""Stains: mixtures with known amounts come apart again, and change as they are told."""

import numpy as np
import pytest
import torch

from domainvl.data.stain.augment import HistologyAugment
from domainvl.data.stain.shift import STAIN_SHIFTS, StainShift
from domainvl.data.stain.stains import HED, REFERENCE, Stains, density, fit, jittered, normalised, seen

UNIT = torch.nn.functional.normalize(HED, dim=-1)


def mixture(directions, count=20_000, seed=0, glass=0.3):
    """Pixels `[N, 3]` of two stains with known amounts `[N, 2]`; a tenth is pure in each, as nuclei and fibres are."""
    draw = torch.Generator().manual_seed(seed)
    amounts = torch.rand(count, 2, generator=draw) + 1
    amounts[: count // 10, 0] = 0
    amounts[count // 10 : count // 5, 1] = 0
    amounts[: int(count * glass) : 3] = 0
    return seen(amounts @ directions), amounts


def pictures(count=3, side=12, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(20, 250, (count, 3, side, side), generator=draw).float()


def test_density_and_back():
    values = torch.arange(1, 256).float()
    torch.testing.assert_close(seen(density(values)), values)
    assert float(density(torch.tensor(255.0))) == 0
    assert torch.isfinite(density(torch.zeros(2, dtype=torch.uint8))).all()


def test_no_change_gives_the_picture_back():
    x = pictures()
    torch.testing.assert_close(jittered(x, torch.ones(3, 3), torch.zeros(3, 3)), x, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(StainShift()(x), x, rtol=1e-4, atol=1e-2)


def test_a_jitter_is_a_change_of_amounts():
    """Against NumPy, pixel by pixel, each picture with numbers of its own."""
    amounts = torch.rand(2, 4, 4, 3, generator=torch.Generator().manual_seed(1)) * 0.4
    x = seen(amounts @ UNIT).movedim(-1, 1)
    factor, offset = (
        torch.tensor([[1.3, 0.8, 1.0], [0.5, 1.1, 0.9]]),
        torch.tensor([[0.1, 0.05, 0.0], [0.0, 0.1, 0.02]]),
    )
    found = jittered(x, factor, offset).movedim(1, -1).numpy()
    for row in range(2):
        changed = amounts[row].numpy() * factor[row].numpy() + offset[row].numpy()
        expected = 255 * np.exp(-changed @ UNIT.numpy())
        np.testing.assert_allclose(found[row], expected, rtol=1e-3)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_stains_of_a_slide_are_found(seed):
    draw = torch.Generator().manual_seed(seed)
    true = torch.nn.functional.normalize(REFERENCE.directions + 0.05 * torch.rand(2, 3, generator=draw), dim=-1)
    pixels, amounts = mixture(true, seed=seed)
    stains = fit(pixels)
    torch.testing.assert_close(stains.directions, true, rtol=0, atol=0.02)
    stained = amounts[(density(pixels) > 0.15).all(dim=-1)]
    torch.testing.assert_close(stains.most, torch.quantile(stained, 0.99, dim=0), rtol=0.03, atol=0.02)


def test_a_slide_takes_the_reference_on():
    """Two laboratories, the same tissue: after normalisation the same picture."""
    first, second = (torch.nn.functional.normalize(REFERENCE.directions + d, dim=-1) for d in (0.0, 0.06))
    _, amounts = mixture(first)
    weak = amounts * torch.tensor([0.8, 0.9])
    tiles = [seen(a @ s).T.reshape(1, 3, 100, 200) for a, s in ((amounts, first), (weak, second))]
    fitted = [fit(tile.movedim(1, -1).reshape(-1, 3)) for tile in tiles]
    before = float((tiles[0] - tiles[1]).abs().mean())
    after = [normalised(tile, stains) for tile, stains in zip(tiles, fitted, strict=True)]
    assert float((after[0] - after[1]).abs().mean()) < 0.1 * before
    expected = seen(amounts * (REFERENCE.most / fitted[0].most) @ REFERENCE.directions).T.reshape(1, 3, 100, 200)
    assert float((after[0] - expected).abs().mean()) < 4


def test_normalising_to_itself_is_nothing():
    pixels, _ = mixture(REFERENCE.directions)
    stains = fit(pixels)
    tile = pixels.T.reshape(1, 3, 100, 200)
    assert float((normalised(tile, stains, stains) - tile).abs().max()) < 2


@pytest.mark.parametrize(
    "pixels",
    [
        torch.full((1000, 3), 255.0),
        torch.full((50, 3), 100.0),
        seen(torch.linspace(0.4, 1.5, 1000)[:, None] @ UNIT[:1]),
    ],
    ids=["glass", "little", "one stain"],
)
def test_what_has_no_two_stains_stays_as_it_is(pixels):
    assert fit(pixels) is None
    tile = pictures(1)
    assert torch.equal(normalised(tile, None), tile)


def test_amounts_are_least_squares():
    directions = UNIT[:2]
    amounts = torch.rand(100, 2, generator=torch.Generator().manual_seed(2))
    stains = Stains(directions, torch.ones(2))
    torch.testing.assert_close(stains.amounts(seen(amounts @ directions)), amounts, rtol=1e-3, atol=1e-3)


def test_augmentation_changes_stains_alone_where_nothing_else_is_asked():
    still = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "rotate": 0.0, "flip": False, "brightness": 0.0, "contrast": 0.0}
    augment = HistologyAugment(**still, stain=0.2)
    x = pictures(2)
    draw = torch.rand(2, augment.NUMBERS, generator=torch.Generator().manual_seed(3))
    draw[:, 8] = 0.1
    change = 0.2 * (2 * draw[:, 9:] - 1)
    expected = jittered(x, 1 + change[:, :3], change[:, 3:])
    torch.testing.assert_close(augment(x, draw), expected, rtol=1e-3, atol=0.05)
    assert float((expected[0] - x[0]).abs().mean()) > 1
    # Quarter turns, of the one picture alone.
    draw[0, 8] = 0.3
    turned = HistologyAugment(**still, stain=0.0)(x, draw)
    torch.testing.assert_close(turned[0], torch.rot90(x[0], 1, (-2, -1)), rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(turned[1], x[1], rtol=1e-4, atol=1e-2)


def test_named_shifts_do_what_their_names_say():
    x = seen(torch.rand(1, 8, 8, 2, generator=torch.Generator().manual_seed(5)) @ UNIT[:2]).movedim(-1, 1)
    inverse = torch.linalg.inv(UNIT)
    amounts = {n: (density(s(x)).movedim(1, -1) @ inverse).mean(dim=(0, 1, 2)) for n, s in STAIN_SHIFTS.items()}
    plain = (density(x).movedim(1, -1) @ inverse).mean(dim=(0, 1, 2))
    torch.testing.assert_close(amounts["strong haematoxylin"][0], 1.4 * plain[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(amounts["weak eosin"][1], 0.6 * plain[1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(amounts["thick section"][:2], plain[:2] + 0.1, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HistologyAugment(stain=1.0), "HistologyAugment: stain is 1.0"),
        (lambda: HistologyAugment(scale=(0.0, 1.0)), "Augment: scale"),
        (lambda: StainShift(eosin=-1), "StainShift: factors must not be negative"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
