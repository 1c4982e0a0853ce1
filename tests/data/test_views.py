"""Training pictures that are finitely many, and the store that keeps what is known about them."""

import errno
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from domainvl.data.augment import Augment
from domainvl.data.decoder import PictureDecoder
from domainvl.data.preset import Preset
from domainvl.data.store import Store, make_room, row_bytes
from domainvl.data.views import Pictures, augmented


def batch(index=(3, 5)):
    draw = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=draw),
        "index": torch.tensor(index),
    }


def image_set(positions=(5, 3, 9), pixels=True, preset=None):
    draw = torch.Generator().manual_seed(0)
    tensor = torch.randint(0, 256, (len(positions), 3, 8, 8), dtype=torch.uint8, generator=draw)
    return SimpleNamespace(
        positions=list(positions),
        pixels=tensor if pixels else None,
        decoder=PictureDecoder(preset or Preset(name="toy", size=8), str),
    )


def test_versions_take_turns_and_come_back():
    augment = Augment(views=3)
    epochs = [augmented(batch(), augment, seed=1, epoch=epoch) for epoch in range(6)]
    assert [int(epoch["view"][0]) for epoch in epochs] == [0, 1, 2, 0, 1, 2]
    assert torch.equal(epochs[0]["image"], epochs[3]["image"])
    assert not torch.equal(epochs[0]["image"], epochs[1]["image"])
    assert not torch.equal(epochs[0]["image"], augmented(batch(), augment, seed=2, epoch=0)["image"])


def test_a_version_depends_on_the_image_alone_and_not_on_its_batch():
    augment = Augment(views=2)
    whole = augmented(batch(), augment, seed=1, epoch=1)["image"]
    half = {key: value[1:] for key, value in batch().items()}
    assert torch.equal(augmented(half, augment, seed=1, epoch=1)["image"], whole[1:])
    before = torch.random.get_rng_state()
    augmented(batch(), augment, seed=1, epoch=1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_new_ones_in_every_epoch_have_no_number():
    assert "view" not in augmented(batch(), Augment(), seed=1, epoch=0)
    plain = augmented(batch(), None, seed=1, epoch=4)
    assert torch.equal(plain["image"], batch()["image"])
    assert plain["view"].tolist() == [0, 0]


def test_views_must_be_positive():
    with pytest.raises(ValueError, match="views is 0"):
        Augment(views=0)


def test_pictures_are_numbered_and_hashed():
    pictures = Pictures.of(image_set(), Augment(views=2), seed=1)
    assert pictures.count == 6
    assert pictures.slots(torch.tensor([9, 3]), torch.tensor([1, 0])).tolist() == [5, 0]
    others = [
        Pictures.of(image_set(), Augment(views=2), seed=2),
        Pictures.of(image_set(), Augment(views=3), seed=1),
        Pictures.of(image_set(), Augment(views=2, flip=True), seed=1),
        Pictures.of(image_set(positions=(5, 3, 8)), Augment(views=2), seed=1),
        Pictures.of(image_set(preset=Preset(name="toy", size=8, mean=(0.5, 0.5, 0.5))), Augment(views=2), seed=1),
    ]
    changed = image_set()
    changed.pixels[0, 0, 0, 0] += 1
    others.append(Pictures.of(changed, Augment(views=2), seed=1))
    assert len({pictures.digest, *(other.digest for other in others)}) == 7
    assert Pictures.of(image_set(), Augment(views=2), seed=1).digest == pictures.digest


def test_what_is_drawn_anew_or_not_in_memory_has_no_pictures():
    assert Pictures.of(image_set(), Augment(), seed=1) is None
    assert Pictures.of(image_set(pixels=False), None, seed=1) is None
    assert Pictures.of(image_set(), None, seed=1).views == 1


FIELDS = {"tokens": ((2, 3), torch.bfloat16), "frozen": ((4,), torch.float32)}


def rows(count):
    return {"tokens": torch.randn(count, 2, 3).bfloat16(), "frozen": torch.randn(count, 4)}


def test_a_store_gives_back_what_it_was_given(tmp_path):
    store = Store(tmp_path / "a" / "b", 5, FIELDS)
    slots = torch.tensor([4, 1])
    assert store.missing(slots).all()
    given = rows(2)
    store.write(slots, given)
    again = Store(tmp_path / "a" / "b", 5, FIELDS)
    assert again.missing(torch.arange(5)).tolist() == [True, False, True, True, False]
    for name, tensor in again.read(slots).items():
        assert torch.equal(tensor, given[name])
    # What is read is not the file itself: training must not write into it.
    again.read(slots)["frozen"].zero_()
    assert torch.equal(store.read(slots)["frozen"], given["frozen"])


def test_a_store_of_another_shape_is_refused(tmp_path):
    Store(tmp_path / "s", 5, FIELDS)
    with pytest.raises(ValueError, match="holds something else"):
        Store(tmp_path / "s", 6, FIELDS)


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"speed\.cache") as caught:
        Store(tmp_path / "views" / "s", 5, FIELDS)
    assert caught.value.errno == errno.ENOSPC
    assert list((tmp_path / "views").iterdir()) == []


def test_room_is_made_by_age(tmp_path):
    size = 4000 * (row_bytes(FIELDS) + 1)
    for age, name in enumerate(["new", "middle", "old"]):
        Store(tmp_path / name, 4000, FIELDS)
        os.utime(tmp_path / name / "meta.json", (1000 - age, 1000 - age))
    kept = Store(tmp_path / "old", 4000, FIELDS)
    os.utime(tmp_path / "old" / "meta.json", (998, 998))
    make_room(tmp_path, size, 3 * size + 1000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["middle", "new"]
    kept.write(torch.tensor([0]), rows(1))
    make_room(tmp_path, size, 10 * size)
    assert len(list(tmp_path.iterdir())) == 2
    make_room(tmp_path, size, size)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_goes_after_an_hour(tmp_path):
    for name in (".draft-old", ".draft-new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokens.bin").write_bytes(b"0")
    os.utime(tmp_path / ".draft-old", (1000, 1000))
    make_room(tmp_path, 1, 10)
    assert [path.name for path in tmp_path.iterdir()] == [".draft-new"]
    make_room(tmp_path / "not there", 1, 10)


def test_augment_is_as_it_was_when_it_draws_itself():
    torch.manual_seed(0)
    drawn = Augment()(batch()["image"])
    torch.manual_seed(0)
    given = replace(Augment(), views=4)(batch()["image"], torch.rand(2, Augment.NUMBERS))
    assert torch.equal(drawn, given)
