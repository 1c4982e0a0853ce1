"""CT volumes as a data module: from files to batches, rejects listed, windows shifted, nothing prepared twice."""

import csv

import ct_layouts as layouts
import pytest
import torch
from ct_phantoms import chest, series

from data_modules import CTVolumes, Preparation
from domainvl.data import TooManyRejects
from domainvl.data.loading import Loading
from domainvl.data.manifest import Record
from domainvl.data.preset import Preset
from domainvl.data.texts.views import TextViews
from domainvl.data.volumes.decoder import Shift, VolumeDecoder, shifted
from domainvl.data.volumes.preset import VolumePreset

PRESET = VolumePreset(
    "toy", (16.0, 16.0, 20.0), (12, 14, 16), windows=((-1000.0, 1000.0), (-160.0, 240.0)), mean=(0.5, 0), std=(0.5, 1)
)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def root(tmp_path):
    return layouts.generic(tmp_path / "data")


def module(root, **arguments):
    data = CTVolumes(
        str(root),
        **{
            "preset": PRESET,
            "preparation": Preparation(folder=str(root.parent / "store")),
            "loading": Loading(4, 3, workers=0, reject_share=0.2),
            **arguments,
        },
    )
    data.rejects.path = root.parent / "rejects.csv"
    return data


def test_batches_are_windows_on_the_device(root):
    data = module(root)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert (batch["image"].dtype, tuple(batch["image"].shape)) == (torch.int16, (4, 12, 14, 16))
    assert batch["label"].shape == batch["valid"].shape == (4, 2)
    done = data.on_after_batch_transfer(batch, 0)["image"]
    assert (done.dtype, tuple(done.shape)) == (torch.float32, (4, 2, 12, 14, 16))
    assert torch.equal(done, PRESET.normalise(batch["image"]))
    assert done[:, 0].min() == -1
    assert (done[:, 1].min(), done[:, 1].max()) == (0, 1)


def test_text_and_classes_come_along(root):
    data = module(root)
    record = data.manifest.records[3]
    assert (record.findings, record.impression) == ("Nodule 3.", "Fine.")
    assert data.prompts.negative_texts("Nodule") == ["a CT scan showing no Nodule."]


def test_reports_go_with_volumes(root):
    data = module(root, texts=TextViews())
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    numbers = [int(one.split("/")[1].split(".")[0]) for one in batch["id"]]
    assert all(text in (f"Nodule {number}.", "Fine.") for text, number in zip(batch["text"], numbers, strict=True))


def test_shots_prepare_what_is_drawn_and_no_more(root):
    data = module(root, shots=2, seed=1)
    data.setup("fit")
    assert len(data._sets["train"]) == 6, "two of each class, and of neither"
    made = len(list((root.parent / "store").glob("*/*.npy")))
    assert made == len(data._sets["train"]) + len(data._sets["validate"]) < 18


def test_a_second_run_reads_no_volume(root, monkeypatch):
    module(root).setup("fit")
    again = module(root)
    monkeypatch.setattr("data_modules.ct.read_volume", lambda *_: pytest.fail("prepared again"))
    again.setup("fit")
    assert again._sets["train"].pixels is not None


def test_what_does_not_fit_into_memory_is_mapped(root):
    whole, mapped = module(root), module(root, loading=Loading(4, 3, workers=2, memory=0, reject_share=0.2))
    for data in (whole, mapped):
        data.setup("test")
    assert mapped._sets["test"].pixels is None
    pairs = zip(whole.test_dataloader(), mapped.test_dataloader(), strict=True)
    assert all(torch.equal(one["image"], other["image"]) for one, other in pairs)


def test_bad_volumes_are_listed_and_left_out(root):
    (root / "scans" / "0.nii.gz").write_bytes((root / "scans" / "0.nii.gz").read_bytes()[:900])
    (root / "scans" / "3.nii.gz").unlink()
    data = module(root)
    for stage in ("fit", "test"):
        data.setup(stage)
    assert [len(data._sets[name]) for name in ("train", "validate", "test")] == [11, 6, 5]
    with (root.parent / "rejects.csv").open() as file:
        rows = {row["path"]: (row["row"], row["reason"]) for row in csv.DictReader(file)}
    assert rows == {
        "scans/0.nii.gz": ("2", "the gzip stream is cut short"),
        "scans/3.nii.gz": ("5", "the file does not exist"),
    }
    again = module(root)
    again.setup("fit")
    assert len(again._sets["train"]) == 11, "the reason is known from the store"


def test_too_many_bad_volumes_stop_the_run(root):
    for number in range(8):
        (root / "scans" / f"{number}.nii.gz").write_bytes(b"")
    data = module(root)
    with pytest.raises(TooManyRejects, match=r"6 of 24 rows .* more than the 0\.2 .* the file is empty"):
        data.setup("fit")


def test_a_mended_file_is_read_again(root):
    path = root / "scans" / "0.nii.gz"
    good = path.read_bytes()
    path.write_bytes(good[:900])
    module(root).setup("fit")
    path.write_bytes(good)
    data = module(root)
    data.setup("fit")
    assert len(data._sets["train"]) == 12


def test_windows_move_in_training_and_stay_in_evaluation(root):
    still, moving = module(root), module(root, augment=Shift((1, 2, 3)))
    for data in (still, moving):
        data.setup("test")
    first, wide = next(iter(still.test_dataloader())), next(iter(moving.test_dataloader()))
    assert tuple(wide["image"].shape[1:]) == (14, 18, 22)
    assert torch.equal(
        still.on_after_batch_transfer(first, 0)["image"], moving.on_after_batch_transfer(wide, 0)["image"]
    )
    cut = moving.augment(wide["image"], torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5], [1, 1, 1]]))
    for row, corner in enumerate(((0, 0, 0), (1, 2, 3), (2, 4, 6))):
        d, h, w = corner
        assert torch.equal(cut[row], wide["image"][row, d : d + 12, h : h + 14, w : w + 16])
    torch.manual_seed(0)
    places = {tuple(moving.augment(wide["image"])[0].flatten().tolist()) for _ in range(20)}
    assert len(places) > 5


def test_a_window_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        shifted(torch.zeros(1, 4, 4, 4), torch.zeros(1, 3), (5, 4, 4))


def test_a_folder_is_predicted(root, tmp_path):
    folder = tmp_path / "new"
    chest(folder / "a.nii.gz", shape=layouts.SHAPE, spacing=layouts.SPACING)
    series(folder / "b", layouts.scan(2))
    data = module(root, predict_folder=str(folder))
    data.setup("predict")
    batch = next(iter(data.predict_dataloader()))
    assert batch["id"] == ["a.nii.gz", "b"]
    assert "label" not in batch
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no volume lies in predict_folder"):
        module(root, predict_folder=str(tmp_path / "empty")).setup("predict")


def test_resizing_presets_see_the_whole_volume(root):
    preset = VolumePreset("whole", (8.0, 8.0, 10.0), (6, 7, 8), crop="resize", axes="SAR")
    data = module(root, preset=preset)
    data.setup("test")
    image = data._sets["test"].pixels[0]
    assert tuple(image.shape) == (6, 7, 8)
    assert (image > -500).float().mean() > 0.2
    with pytest.raises(ValueError, match="resizes the whole volume, so there is no margin"):
        module(root, preset=preset, augment=Shift()).setup("test")


def test_the_body_is_what_is_kept(root):
    chest(root / "scans" / "3.nii.gz", shape=(24, 40, 48), spacing=layouts.SPACING)
    fine = VolumePreset("fine", (8.0, 8.0, 10.0), (12, 14, 16))
    kept = Preparation("body", folder=str(root.parent / "store"))
    whole, body = module(root, preset=fine), module(root, preset=fine, preparation=kept)
    for data in (whole, body):
        data.setup("test")
    assert whole.decoder.digest != body.decoder.digest
    (wide,) = [one for one in whole.manifest.records if one.path == "scans/3.nii.gz"]
    shapes = [data.decoder.prepare([wide], root, 1, "")[0].shape for data in (whole, body)]
    assert shapes[0] == (24, 40, 48)
    assert shapes[1][1:] < (30, 36)


def test_a_head_in_a_chest_set_is_named(root):
    from test_ct_bad_input import head

    path = head(root)
    path.rename(root / "scans" / "3.nii.gz")
    data = module(root, preparation=Preparation(region="chest", folder=str(root.parent / "store")))
    data.setup("test")
    reasons = {reject.path: reject.reason for reject in data.rejects}
    assert reasons["scans/3.nii.gz"].endswith("it is no chest (a head or an abdomen?)")


def test_a_two_dimensional_preset_is_refused(root):
    with pytest.raises(
        ValueError, match="a Preset, which prepares 2D pictures, is known, and a VolumePreset is needed"
    ):
        module(root, preset=Preset("flat", 16)).setup("fit")
    with pytest.raises(ValueError, match="no preset is known"):
        module(root, preset=None).setup("fit")


def test_a_layout_without_a_root(tmp_path):
    from data_modules import CtRate

    with pytest.raises(ValueError, match="layout CtRate needs the root"):
        CTVolumes(layout=CtRate())


def test_another_slice_of_a_series_is_another_key(tmp_path):
    from data_modules.ct import VolumeFiles

    folder = series(tmp_path / "s", layouts.scan(), name="one")
    files = VolumeFiles(1 << 30)
    whole = Record("a", "s", "p")
    one = Record("b", "s/one-003.dcm", "p")
    before = files.key(whole, tmp_path), files.key(one, tmp_path)
    assert before[0] != before[1]
    (folder / "one-005.dcm").unlink()
    assert files.key(whole, tmp_path) != before[0]
    assert files.key(one, tmp_path) != before[1]


def test_a_decoder_says_what_it_reads(root):
    data = module(root)
    decoder = data.decoder
    record = data.manifest.records[0]
    assert isinstance(decoder, VolumeDecoder)
    found = decoder.read(record, root)
    assert (tuple(found.shape), found.dtype) == (decoder.shape, decoder.dtype)
    assert torch.equal(decoder.finish(found[None]), PRESET.normalise(found[None]))
