"""Texts beside images: which are drawn, what is left out, and that all processes and resumed runs agree."""

import csv
from collections import Counter
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from domainvl.data import Augment, Label, Loading, Manifest, PictureDecoder, PromptSet, Record, TextViews
from domainvl.data.module import DataModule
from domainvl.data.preset import Preset
from domainvl.data.sampler import TrainSampler
from domainvl.data.texts.reports import sentences

PRESET = Preset("toy", 16)
BOTH = {"findings": "One is seen. Two is 1.5 cm. Three.", "impression": "It is four.", "report": "", "caption": ""}
REPORT = (
    "FINAL REPORT\n\nINDICATION:\nCough.\n\nFINDINGS:\nFile {n} findings. More.\n\nIMPRESSION:\nFile {n} sums up.\n"
)


def read(path: Path) -> Image.Image:
    return Image.open(path)


class Reports(DataModule):
    """Patients with two studies, studies with two images; the report is inline, a file, a caption alone, or nothing."""

    def __init__(self, root, texts=None, per_kind=(0, 1, 2, 3), **arguments):
        super().__init__(
            preset=PRESET, texts=TextViews() if texts is None else texts, **{"loading": Loading(workers=0), **arguments}
        )
        self.root, self.per_kind = root, per_kind

    @property
    def decoder(self):
        return PictureDecoder(self.preset, read)

    def default_prompts(self, multilabel):
        return PromptSet(["a {}"], ["no {}"])

    def read_manifest(self):
        return Manifest("toy", self.root, tuple(self.record(n) for n in range(48)), ("a",), True, reports=self.root)

    def record(self, n):
        patient, study = n // 4, n // 2
        if not (self.root / f"{n}.png").exists():
            Image.new("L", (20, 24), 40 + n).save(self.root / f"{n}.png")
            (self.root / f"{study}.txt").write_text(REPORT.format(n=study))
        kind = self.per_kind[study % len(self.per_kind)]
        words = [
            {"findings": f"Inline {study}. Also.", "impression": f"Inline {study} sums up."},
            {"report": f"{study}.txt"},
            {"texts": {"caption": f"Caption {study}."}, "impression": f"Only {study}."},
            {},
        ][kind]
        split = ("train", "train", "test")[patient % 3]
        label = (Label.POSITIVE, Label.NEGATIVE)[patient % 2]
        name = "s" if study % 2 else "t"
        return Record(f"id{n}", f"{n}.png", f"p{patient}", (label,), split, name, row=n + 2, **words)


def fitted(root, stage="fit", **arguments):
    data = Reports(root, **arguments)
    data.rejects.path = root / "rejects.csv"
    data.setup(stage)
    return data


def epoch_of(data, epoch):
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return {i: text for b in loader for i, text in zip(b["index"].tolist(), b["text"], strict=True)}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"views": {}}, "at least one more than 0"),
        ({"views": {"findings": 0.0}}, "at least one more than 0"),
        ({"views": {"findings": -1.0, "report": 1.0}}, "give every view a weight"),
        ({"views": {"findings": float("nan")}}, "give every view a weight"),
        ({"extra": ["caption", "caption"]}, "name every view once"),
    ],
)
def test_views_are_checked(arguments, says):
    with pytest.raises(ValueError, match=says):
        TextViews(**arguments)


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ({"findings": 0.5, "impression": 0.5}, {"findings": 0.5, "impression": 0.5}),
        ({"findings": 3, "impression": 1}, {"findings": 0.75, "impression": 0.25}),
        ({"findings": 0, "impression": 2, "caption": 9}, {"impression": 1}),
    ],
)
def test_views_are_drawn_as_often_as_they_weigh(weights, shares):
    views = TextViews(views=weights)
    drawn = Counter(views.draw(BOTH, 1, epoch, index) for epoch in range(4) for index in range(1000))
    assert set(drawn) == {BOTH[name] for name in shares}
    for name, share in shares.items():
        assert abs(drawn[BOTH[name]] / 4000 - share) < 0.03


def test_a_sentence_is_any_of_the_views_and_numbers_decide_alone():
    views = TextViews(views={"findings": 1}, sentences=True)
    drawn = [views.draw(BOTH, 1, 0, index) for index in range(300)]
    assert set(drawn) == set(sentences(BOTH["findings"]))
    assert len(set(drawn)) == 3
    torch.manual_seed(9)
    assert drawn == [views.draw(BOTH, 1, 0, index) for index in range(300)]
    for other in (
        [views.draw(BOTH, 2, 0, index) for index in range(300)],
        [views.draw(BOTH, 1, i, 0) for i in range(300)],
    ):
        assert other != drawn


@pytest.mark.parametrize(
    ("weights", "texts", "expected"),
    [
        ({"findings": 1, "impression": 1}, BOTH, BOTH["impression"]),
        ({"findings": 1, "impression": 0}, BOTH, BOTH["findings"]),
        ({"caption": 1, "findings": 1}, {**BOTH, "caption": "c"}, BOTH["findings"]),
        ({"caption": 1, "findings": 1}, {**BOTH, "caption": "c", "findings": ""}, "c"),
        ({"caption": 1}, BOTH, ""),
    ],
)
def test_evaluation_takes_a_whole_text_by_fixed_priority(weights, texts, expected):
    assert TextViews(views=weights, sentences=True).whole(texts) == expected


@pytest.mark.parametrize("memory", [0.0, 2.0])
def test_batches_have_the_documented_keys(tmp_path, memory):
    views = TextViews(extra=["caption", "report"], one_per_study=False)
    data = fitted(tmp_path, texts=views, loading=Loading(workers=2, memory=memory))
    batch = next(iter(data.train_dataloader()))
    own = {"text", "text@caption", "text@report", "group", "study"}
    assert set(batch) == {"image", "label", "valid", "index", "id", "patient"} | own
    records = data.manifest.records
    for place, index in enumerate(batch["index"].tolist()):
        study, kind = index // 2, index // 2 % 4
        assert batch["group"][place] == index // 4
        assert batch["study"][place] == study
        whole = [
            f"Inline {study}. Also. Inline {study} sums up.",
            f"File {study} findings. More. File {study} sums up.",
        ]
        assert batch["text@report"][place] == [*whole, f"Only {study}."][kind]
        assert batch["text@caption"][place] == ("", "", f"Caption {study}.")[kind]
        assert str(study) in batch["text"][place]
        assert batch["patient"][place] == records[index].patient


def test_texts_depend_on_seed_epoch_and_record_alone(tmp_path):
    plain = fitted(tmp_path, seed=1)
    epochs = [epoch_of(plain, epoch) for epoch in range(3)]
    assert any(epochs[0].get(index) != text for index, text in epochs[1].items() if index in epochs[0])
    other = fitted(tmp_path, seed=1, loading=Loading(workers=2, memory=0.0, batch_size=3, drop_last=False))
    assert [epoch_of(other, epoch) for epoch in (2, 0)] == [epochs[2], epochs[0]], "a resumed run sees the same"
    assert epoch_of(fitted(tmp_path, seed=2), 0) != epochs[0]


def test_workers_that_outlive_an_epoch_draw_for_the_next_one(tmp_path):
    loading = Loading(workers=1, memory=0.0, drop_last=False)
    views = TextViews(one_per_study=False)
    loader = fitted(tmp_path, seed=1, texts=views, loading=loading).train_dataloader()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        seen = {i: text for b in loader for i, text in zip(b["index"].tolist(), b["text"], strict=True)}
        assert seen == epoch_of(fitted(tmp_path, seed=1, texts=views), epoch)


def test_images_without_text_are_listed_and_do_not_count(tmp_path):
    with pytest.warns(UserWarning, match="toy: 4 of 16 test images are left out: no text in impression, findings"):
        data = fitted(tmp_path, "test", loading=Loading(workers=0, reject_share=0.0))
    left = [n for n in range(48) if n // 4 % 3 == 2 and n // 2 % 4 != 3]
    assert [index for batch in data.test_dataloader() for index in batch["index"].tolist()] == left
    assert len(data.rejects) == 0
    rows = list(csv.DictReader(data.rejects.path.open()))
    assert len(rows) == len(data.rejects.notes) == 16 - len(left) > 0
    assert {row["reason"] for row in rows} == {"no text in impression, findings"}


def test_report_files_are_read_when_needed_and_may_be_missing(tmp_path):
    data = Reports(tmp_path, per_kind=(1,))
    assert len(data.manifest.records) == 48
    for study in range(24):
        if study % 3:
            (tmp_path / f"{study}.txt").unlink()
    (tmp_path / "3.txt").write_bytes(b"\xff\xfe broken")
    data.rejects.path = tmp_path / "rejects.csv"
    data.setup("fit")
    seen = {index // 2 for batch in data.train_dataloader() for index in batch["index"].tolist()}
    assert seen == {study for study in range(0, 24, 3) if study // 2 % 3 != 2 and study != 3}
    reasons = {note.reason for note in data.rejects.notes.values()}
    assert reasons == {"no text in impression, findings (or the report file cannot be read)"}


def test_no_text_at_all_is_an_error_that_names_no_patient(tmp_path):
    with pytest.raises(
        ValueError, match=r"none of the 32 train images has a text: .*rewritten.*Check texts\.views"
    ) as found:
        fitted(tmp_path, texts=TextViews(views={"rewritten": 1}))
    assert "p1" not in str(found.value)


def test_texts_stay_out_of_reprs(tmp_path):
    assert "Caption" not in repr(Reports(tmp_path).record(4))


def test_one_image_of_a_study_is_drawn_per_epoch(tmp_path):
    data = fitted(tmp_path)
    studies = {n // 2 for n in range(48) if n // 4 % 3 != 2 and n // 2 % 4 != 3}
    epochs = [list(epoch_of(data, epoch)) for epoch in range(8)]
    for seen in epochs:
        assert sorted(index // 2 for index in seen) == sorted(studies)
    assert {index for seen in epochs for index in seen} == {n for n in range(48) if n // 2 in studies}
    assert [index // 2 for index in epochs[0]] != [index // 2 for index in epochs[1]]
    every = fitted(tmp_path, texts=TextViews(one_per_study=False))
    assert len(epoch_of(every, 0)) == 2 * len(studies)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_the_studies_of_an_epoch(world):
    studies = [n // 2 for n in range(20)]
    samplers = [TrainSampler(range(20), 1, rank, world, studies) for rank in range(world)]
    parts = [list(sampler) for sampler in samplers]
    assert [len(part) for part in parts] == [len(sampler) for sampler in samplers] == [-(-10 // world)] * world
    assert {studies[item] for part in parts for item in part} == set(range(10))
    assert sorted(set(samplers[0].order())) == sorted(samplers[-1].order())


def test_shots_are_drawn_among_images_with_text(tmp_path):
    data = fitted(tmp_path, shots=2, labels="ignore")
    chosen = data._sets["train"].positions
    assert chosen
    assert all(index // 2 % 4 != 3 for index in chosen)
    assert all(epoch_of(data, 0).values())


class Watcher(LightningModule):
    preset = PRESET
    second_view = True

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches, self.epochs = [], []

    def training_step(self, batch, _):
        self.batches.append(batch)
        self.epochs.append(self.current_epoch)
        return (self.weight * batch["image"].mean()).sum()

    def predict_step(self, batch, _):
        self.batches.append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(folder, epochs=2):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir=folder, **quiet)


@pytest.mark.parametrize("views", [None, 2])
def test_a_second_view_is_another_draw_and_normalised(tmp_path, views):
    task = Watcher()
    data = Reports(tmp_path, augment=Augment(views=views))
    trainer(tmp_path, 3).fit(task, data)
    for batch in task.batches:
        first, second = batch["image"], batch["image@second"]
        assert (second.shape, second.dtype) == (first.shape, torch.float32)
        assert not torch.allclose(first, second)
        # The toy pictures are flat, so both views have the picture's brightness, at most a tenth off, once normalised.
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (PRESET.mean, PRESET.std))
        level = ((40 + batch["index"]) / 255)[:, None, None, None]
        assert ((second * std + mean) / level - 1).abs().max() < 0.11
    if views:
        first, third = (dict(zip(b["index"].tolist(), b["image@second"], strict=True)) for b in task.batches[::2])
        common = set(first) & set(third)
        assert common
        assert all(torch.equal(first[index], third[index]) for index in common), "the versions take turns"


def test_nobody_gets_a_second_view_unasked(tmp_path):
    task = Watcher()
    task.second_view = False
    trainer(tmp_path, 1).fit(task, Reports(tmp_path))
    assert all("image@second" not in batch for batch in task.batches)
    task.second_view = True
    with pytest.raises(ValueError, match=r"a second view .*data\.augment is null; set data\.augment \(\{\} for"):
        trainer(tmp_path, 1).fit(task, Reports(tmp_path))
    task.batches.clear()
    trainer(tmp_path).predict(task, Reports(tmp_path))
    assert all("image@second" not in batch for batch in task.batches)
    assert all(text.endswith("sums up.") or text.startswith("Only") for batch in task.batches for text in batch["text"])


def test_a_folder_to_predict_has_no_texts(tmp_path):
    (tmp_path / "new").mkdir()
    Image.new("L", (20, 20)).save(tmp_path / "new" / "a.png")
    task = Watcher()
    trainer(tmp_path).predict(task, Reports(tmp_path, predict_folder=str(tmp_path / "new")))
    assert set(task.batches[0]) == {"image", "index", "id", "patient"}
