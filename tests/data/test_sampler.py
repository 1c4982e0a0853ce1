import pytest
import torch

from domainvl.data.augment import Augment
from domainvl.data.sampler import EvalSampler, TrainSampler

DATA = list(range(23))


def epoch(number, seed=0, rank=0, world=1):
    sampler = TrainSampler(DATA, seed, rank, world)
    sampler.set_epoch(number)
    return list(sampler)


def test_order_depends_on_seed_and_epoch_alone():
    assert epoch(3) == epoch(3)
    assert epoch(3) != epoch(4)
    assert epoch(3) != epoch(3, seed=1)
    assert sorted(epoch(3)) == DATA


@pytest.mark.parametrize("world", [1, 2, 3, 4, 30])
def test_processes_share_one_order(world):
    parts = [epoch(2, rank=rank, world=world) for rank in range(world)]
    assert {len(part) for part in parts} == {len(TrainSampler(DATA, 0, 0, world))}
    together = [item for step in zip(*parts, strict=True) for item in step]
    assert together[: len(DATA)] == epoch(2)
    assert set(together) == set(DATA)


@pytest.mark.parametrize("world", [1, 2, 3, 30])
def test_evaluation_takes_every_item_once(world):
    samplers = [EvalSampler(DATA, rank, world) for rank in range(world)]
    assert sorted(item for sampler in samplers for item in sampler) == DATA
    assert [len(sampler) for sampler in samplers] == [len(list(sampler)) for sampler in samplers]


def test_a_rank_outside_the_world_is_refused():
    with pytest.raises(ValueError, match="rank 2 is not one of the 2 processes"):
        TrainSampler(DATA, 0, 2, 2)


def images():
    return torch.randint(0, 256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


NOTHING = Augment(scale=(1, 1), ratio=(1, 1), rotate=0, brightness=0, contrast=0)


def test_augment_without_change_is_the_identity():
    torch.testing.assert_close(NOTHING(images()), images().float(), atol=1e-3, rtol=0)


def test_augment_follows_the_global_generator_and_keeps_the_range():
    torch.manual_seed(7)
    first = Augment()(images())
    torch.manual_seed(7)
    assert torch.equal(first, Augment()(images()))
    assert not torch.equal(first, Augment()(images()))
    assert first.dtype == torch.float32
    assert 0 <= first.min() <= first.max() <= 255


def test_flip_mirrors_about_half():
    flip = Augment(scale=(1, 1), ratio=(1, 1), rotate=0, brightness=0, contrast=0, flip=True)
    batch = images()[:1].repeat(64, 1, 1, 1)
    torch.manual_seed(0)
    turned = flip(batch)
    mirrored = (turned - batch.flip(-1).float()).abs().amax(dim=(1, 2, 3)) < 1e-2
    same = (turned - batch.float()).abs().amax(dim=(1, 2, 3)) < 1e-2
    assert (mirrored ^ same).all()
    assert 16 < mirrored.sum() < 48


def test_no_black_comes_in_from_outside():
    """A crop of a white image is white."""
    white = torch.full((16, 3, 24, 40), 255, dtype=torch.uint8)
    crop = Augment(scale=(0.3, 0.9), rotate=20, brightness=0, contrast=0)
    assert crop(white).min() > 254


def test_rotation_keeps_angles_on_images_that_are_not_square():
    """A disc stays a disc when a wide picture turns."""
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(80.0), indexing="ij")
    disc = (((rows - 19.5) ** 2 + (columns - 39.5) ** 2) < 15**2).float() * 255
    turned = Augment(scale=(1, 1), ratio=(2, 2), rotate=45, brightness=0, contrast=0)
    torch.manual_seed(1)
    result = turned(disc.expand(1, 1, 40, 80))
    assert (result - disc).abs().mean() < 255 * 0.02


@pytest.mark.parametrize("wrong", [{"scale": (0, 1)}, {"scale": (0.8, 0.5)}, {"ratio": (2, 1)}, {"rotate": -1}])
def test_augment_is_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Augment(**wrong)
