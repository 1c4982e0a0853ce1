"""The base class through a toy data set of real files, with and without a Trainer."""

import csv
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from domainvl.data import (
    Augment,
    Label,
    Loading,
    Manifest,
    PictureDecoder,
    PromptSet,
    Record,
    Rejects,
    SplitRule,
    TooManyRejects,
    UnreadableImage,
)
from domainvl.data.module import DataModule
from domainvl.data.preset import Preset
from domainvl.data.rejects import Reject

P, N, B = Label.POSITIVE, Label.NEGATIVE, Label.BLANK
PRESET = Preset("toy", 16)
LOADING = {field.name for field in fields(Loading)}


def read(path: Path) -> Image.Image:
    if b"broken" in path.read_bytes():
        raise UnreadableImage("it is broken")
    return Image.open(path)


class Toy(DataModule):
    def __init__(self, root, broken=(), multilabel=True, missing=(), **arguments):
        loading = Loading(**{name: arguments.pop(name) for name in LOADING if name in arguments})
        super().__init__(**{"preset": PRESET, "loading": loading, **arguments})
        self.root, self.broken, self.kind, self.missing = root, broken, multilabel, missing

    @property
    def decoder(self):
        return PictureDecoder(self.preset, read)

    def default_prompts(self, multilabel):
        return PromptSet(["a {}"], ["no {}"])

    def read_manifest(self):
        records = []
        for n in range(60):
            path = self.root / f"{n}.png"
            if n in self.broken:
                path.write_bytes(b"broken")
            elif n not in self.missing:
                Image.new("L", (20, 24), n).save(path)
            split = ("train", "train", "train", "validate", "test")[n % 5]
            labels = ((P, B), (N, P), (N, N))[n % 3] if self.kind else ((P, N), (N, P))[n % 2]
            records.append(Record(f"id{n}", path.name, f"p{n}", labels, split, row=n + 2))
        return Manifest("toy", self.root, tuple(records), ("a", "b"), self.kind)


def seen(loader):
    return [index for batch in loader for index in batch["index"].tolist()]


def test_batches_have_the_documented_keys(tmp_path):
    data = Toy(tmp_path, batch_size=8)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert set(batch) == {"image", "label", "valid", "index", "id", "patient"}
    assert (batch["image"].shape, batch["image"].dtype) == ((8, 3, 16, 16), torch.uint8)
    for place, index in enumerate(batch["index"].tolist()):
        record = data.manifest.records[index]
        assert (batch["id"][place], batch["patient"][place]) == (record.id, record.patient)
        assert batch["valid"][place].tolist() == [label is not B for label in record.labels]
        assert batch["label"][place].tolist() == [float(label is P) for label in record.labels]
        assert batch["image"][place].eq(index).all()


def test_single_label_batches_have_class_numbers(tmp_path):
    data = Toy(tmp_path, multilabel=False)
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    assert "valid" not in batch
    assert batch["label"].tolist() == [index % 2 for index in batch["index"].tolist()]


@pytest.mark.parametrize("memory", [0.0, 2.0])
@pytest.mark.parametrize("workers", [0, 2])
def test_rejects_are_listed_and_the_rest_goes_on(tmp_path, memory, workers):
    data = Toy(
        tmp_path, broken=(4, 9), missing=(14,), reject_share=0.05, memory=memory, workers=workers, eval_batch_size=1
    )
    data.rejects.path = tmp_path / "run" / "rejects.csv"
    data.setup("test")
    assert all(len(batch["index"]) for batch in data.test_dataloader())
    assert seen(data.test_dataloader()) == [n for n in range(60) if n % 5 == 4 and n not in (4, 9, 14)]
    rows = list(csv.DictReader(data.rejects.path.open()))
    assert rows == [
        {"row": "6", "path": "4.png", "reason": "it is broken"},
        {"row": "11", "path": "9.png", "reason": "it is broken"},
        {"row": "16", "path": "14.png", "reason": "the file does not exist"},
    ]


@pytest.mark.parametrize("memory", [0.0, 2.0])
def test_too_many_rejects_stop_the_run_and_say_where_the_list_is(tmp_path, memory):
    data = Toy(tmp_path, broken=(4,), memory=memory)
    data.rejects.path = tmp_path / "rejects.csv"

    def run():
        data.setup("test")
        seen(data.test_dataloader())

    with pytest.raises(TooManyRejects, match=r"1 of 60 rows .* row 6: it is broken.*rejects\.csv"):
        run()
    assert "it is broken" in data.rejects.path.read_text()


def test_memory_and_workers_do_not_change_what_is_seen(tmp_path):
    runs = []
    for memory in (0.0, 2.0):
        data = Toy(tmp_path, memory=memory, batch_size=8)
        data.setup("fit")
        runs.append([(batch["index"].tolist(), batch["image"].sum().item()) for batch in data.train_dataloader()])
    assert runs[0] == runs[1]


def test_what_is_chosen_on_is_seen_whole_by_every_process(tmp_path):
    data = Toy(tmp_path, batch_size=8, eval_batch_size=5, augment=Augment())
    data.setup("fit")
    data.trainer = SimpleNamespace(global_rank=1, world_size=2)
    cpu = torch.device("cpu")
    expected = {"validate": [n for n in range(60) if n % 5 == 3], "train": [n for n in range(60) if n % 5 < 3]}
    assert seen(data.validation_batches(cpu)) == seen(data.batches("validate", cpu)) == expected["validate"]
    assert seen(data.support_batches(0, cpu)) == expected["train"]
    assert seen(data.val_dataloader()) == expected["validate"][1::2]


def test_shots_are_filled_up_past_unreadable_images(tmp_path):
    plain = Toy(tmp_path, shots=2)
    plain.setup("fit")
    first = plain.hashes()["shots"]
    chosen = plain._sets["train"].positions
    data = Toy(tmp_path, shots=2, broken=chosen[:2], reject_share=0.05)
    data.setup("fit")
    assert len(seen(data.train_dataloader())) == len(chosen)
    assert not set(seen(data.train_dataloader())) & set(chosen[:2])
    assert len(data.rejects) == 2
    assert data.hashes()["shots"] != first
    assert data.hashes()["split"] == plain.hashes()["split"]


def test_shots_stay_inside_their_split(tmp_path):
    data = Toy(tmp_path, shots=4)
    data.setup("fit")
    split = {index: data.manifest.records[index].split for index in range(60)}
    assert {split[index] for index in seen(data.train_dataloader())} == {"train"}
    assert {split[index] for index in seen(data.val_dataloader())} == {"validate"}


def test_the_runs_seed_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "11")
    orders = []
    for seed in (None, 11, 12):
        data = Toy(tmp_path, seed=seed)
        data.setup("fit")
        orders.append(seen(data.train_dataloader()))
    assert orders[0] == orders[1] != orders[2]


def test_an_unlabelled_folder_is_predicted(tmp_path):
    (tmp_path / "new" / "deep").mkdir(parents=True)
    for name in ("b.png", "deep/a.JPG"):
        Image.new("RGB", (30, 20)).save(tmp_path / "new" / name)
    (tmp_path / "new" / "notes.txt").write_text("x")
    data = Toy(tmp_path / "nowhere", predict_folder=str(tmp_path / "new"))
    data.adopt(["u", "v"], multilabel=True, prompts=PromptSet(["{}"], ["no {}"]))
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch["id"] == ["b.png", "deep/a.JPG"]
    assert set(batch) == {"image", "index", "id", "patient"}
    assert (data.classes, data.multilabel, data.prompts.texts("u")) == (["u", "v"], True, ["u"])


def test_a_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no image lies in predict_folder .*looked for \.jpg"):
        Toy(tmp_path, predict_folder=str(tmp_path)).setup("predict")


def test_an_adapter_of_another_kind_is_refused(tmp_path):
    data = Toy(tmp_path)
    data.adopt(["a", "b"], multilabel=False)
    with pytest.raises(ValueError, match="several labels per image, the adapter was trained with one label"):
        data.setup("test")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shots": 0}, "shots is 0"),
        ({"labels": "chexprt"}, "did you mean 'chexpert'"),
    ],
)
def test_arguments_are_checked(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        Toy(tmp_path, **arguments)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Loading(batch_size=0), "batch_size is 0"),
        (lambda: Loading(eval_batch_size=0), "eval_batch_size is 0"),
        (lambda: Loading(workers=-1), "workers is -1"),
        (lambda: Loading(memory=-1), "memory is -1"),
        (lambda: Loading(reject_share=2), "reject_share is 2"),
        (lambda: SplitRule(fractions=(0.5, 0.2, 0.2)), "add up to 1"),
        (lambda: SplitRule(fractions=(1.5, -0.5, 0.0)), "add up to 1"),
    ],
)
def test_groups_of_arguments_are_checked(made, message):
    with pytest.raises(ValueError, match=message):
        made()


def test_without_a_preset_it_says_where_one_comes_from(tmp_path):
    with pytest.raises(ValueError, match=r"give preset=backbone\.preset"):
        Toy(tmp_path, preset=None).setup("fit")


def test_multilabel_needs_negative_prompts(tmp_path):
    with pytest.raises(ValueError, match=r"add prompts\.negatives"):
        _ = Toy(tmp_path, prompts=PromptSet(["{}"])).prompts


class Watcher(LightningModule):
    """Notes what a task gets to see."""

    preset = PRESET

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.orders = {}
        self.tested, self.images = [], []

    def training_step(self, batch, _):
        self.orders.setdefault(self.current_epoch, []).extend(batch["index"].tolist())
        self.images.append(batch["image"])
        return (self.weight * batch["image"].mean()).sum()

    def validation_step(self, batch, _):
        pass

    def test_step(self, batch, batch_idx):
        self.tested += batch["index"].tolist()
        self.images.append(batch["image"])

    def predict_step(self, batch, _):
        return batch["id"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(folder, epochs=2):
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


@pytest.mark.parametrize("memory", [0.0, 2.0])
def test_a_trainer_gets_a_new_order_every_epoch_and_normalised_images(tmp_path, memory):
    data, task = Toy(tmp_path, preset=None, batch_size=8, memory=memory, augment=Augment()), Watcher()
    trainer(tmp_path).fit(task, data)
    assert task.orders[0] != task.orders[1]
    assert len(set(task.orders[0])) == 32, "36 images in batches of 8, the rest is dropped"
    again = Watcher()
    trainer(tmp_path).fit(again, Toy(tmp_path, preset=None, batch_size=8, memory=memory))
    assert again.orders == task.orders
    assert task.images[0].dtype == torch.float32
    assert task.images[0].min() < 0


@pytest.mark.parametrize("memory", [0.0, 2.0])
def test_a_trainer_tests_and_predicts_every_image_once_unaugmented(tmp_path, memory):
    data, task = (
        Toy(tmp_path, broken=(9,), reject_share=0.1, eval_batch_size=5, memory=memory, augment=Augment()),
        Watcher(),
    )
    trainer(tmp_path).test(task, data, verbose=False)
    assert task.tested == [n for n in range(60) if n % 5 == 4 and n != 9]
    first = PRESET.normalise(torch.full((3, 16, 16), 4, dtype=torch.uint8))
    torch.testing.assert_close(task.images[0][0], first)
    assert (tmp_path / "rejects.csv").exists()
    predicted = trainer(tmp_path).predict(task, data)
    assert [name for batch in predicted for name in batch] == [f"id{n}" for n in task.tested]


def test_a_trainer_does_without_a_validation_split(tmp_path):
    class NoValidation(Toy):
        def read_manifest(self):
            return super().read_manifest().where(lambda record: record.split != "validate")

    task = Watcher()
    trainer(tmp_path, epochs=1).fit(task, NoValidation(tmp_path))
    assert task.orders
    with pytest.raises(ValueError, match=r"the validate split is empty; images per split: train 36, test 12"):
        trainer(tmp_path).validate(task, NoValidation(tmp_path), verbose=False)


def test_a_row_that_fails_again_is_counted_once(tmp_path):
    rejects = Rejects(0.5)
    rejects.add([Reject(2, "a", "x"), Reject(2, "a", "x"), Reject(0, "b", "y")])
    assert len(rejects) == 2
    rejects.write(tmp_path / "list.csv")
    assert (tmp_path / "list.csv").read_text().splitlines() == ["row,path,reason", "2,a,x", ",b,y"]
