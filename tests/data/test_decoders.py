"""Data whose records are no pictures, through the base class and a Trainer."""

import pytest
import torch
from data.test_module import N, P, Toy, Watcher, trainer

from domainvl.data import Augment, Decoder, Manifest, Record, UnreadableImage
from domainvl.data.decoder import PixelMemory


class Windows(Decoder):
    """Not a picture: two channels of a window of a file of numbers, in half precision."""

    shape = (2, 3, 4, 5)
    dtype = torch.float16
    digest = "windows"

    def __init__(self, wrong=False):
        self.wrong = wrong

    def read(self, record, root):
        if record.part == (7,):
            raise UnreadableImage("there is no window 7")
        first = float((root / record.path).read_text())
        return torch.full((1,) if self.wrong else self.shape, first + record.part[0], dtype=self.dtype)

    def finish(self, batch):
        return batch.float() / 2


class Scenes(Toy):
    augmentable = False
    wrong = False

    @property
    def decoder(self):
        return Windows(self.wrong)

    def read_manifest(self):
        (self.root / "scene.txt").write_text("10")
        records = [
            Record(f"w{n}", "scene.txt", f"p{n}", ((P, N), (N, P))[n % 2], "train" if n < 10 else "test", part=(n,))
            for n in range(20)
        ]
        return Manifest("scenes", self.root, tuple(records), ("a", "b"), False)


@pytest.mark.parametrize("memory", [0.0, 2.0])
@pytest.mark.parametrize("shots", [None, 2])
def test_what_is_read_need_not_be_a_picture(tmp_path, memory, shots):
    data, task = Scenes(tmp_path, memory=memory, batch_size=4, shots=shots, reject_share=0.1, preset=None), Watcher()
    trainer(tmp_path, epochs=1).fit(task, data)
    for image in task.images:
        assert (image.shape[1:], image.dtype) == ((2, 3, 4, 5), torch.float32)
    values = torch.cat(task.images)[:, 0, 0, 0, 0]
    assert values.tolist() == [(10 + n) / 2 for n in task.orders[0]]
    assert 7 not in task.orders[0]
    assert data._sets["train"].bytes() == len(data._sets["train"]) * 2 * 3 * 4 * 5 * 2
    trainer(tmp_path).test(task, data, verbose=False)
    assert task.tested == list(range(10, 20))
    if memory:
        assert data.pictures().index.tolist() == sorted(data._sets["train"].positions)


def test_a_decoder_that_breaks_its_promise_is_named(tmp_path):
    data = Scenes(tmp_path, preset=None)
    data.wrong = True
    with pytest.raises(
        TypeError, match=r"Windows\.read gave torch\.float16 \(1,\), its shape and dtype promise .*2, 3"
    ):
        data.setup("test")


def test_what_cannot_be_augmented_refuses_it(tmp_path):
    with pytest.raises(ValueError, match="Scenes: augment changes 2D pictures"):
        Scenes(tmp_path, augment=Augment())


def test_what_cannot_be_augmented_has_no_second_view(tmp_path):
    task = Watcher()
    task.second_view = True
    with pytest.raises(ValueError, match=r"Scenes: .*second view .* cannot be augmented, so use objectives that do"):
        trainer(tmp_path).fit(task, Scenes(tmp_path, preset=None))
    assert not task.images


def test_pixel_memory_tells_parts_and_decoders_apart(tmp_path):
    (tmp_path / "scene.txt").write_text("10")
    memory, windows = PixelMemory(1.0), Windows()
    one, two = (Record(f"w{n}", "scene.txt", "p", part=(n,)) for n in (1, 2))
    assert [memory.read(windows, record, tmp_path).max().item() for record in (one, two)] == [11, 12]
    (tmp_path / "scene.txt").write_text("20")
    assert [memory.read(windows, record, tmp_path).max().item() for record in (one, two)] == [11, 12]
    other = Windows()
    other.digest = "other"
    assert memory.read(other, one, tmp_path).max().item() == 21
    assert PixelMemory(0.0).read(windows, one, tmp_path).max().item() == 21
