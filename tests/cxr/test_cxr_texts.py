"""Texts and boxes of chest X-rays, from tables and from the samples."""

import pytest
from cxr_layouts import save, table

from data_modules import ChestXrays, MimicCxrJpg
from data_modules.readers.boxes import with_boxes
from domainvl import samples
from domainvl.data import Augment, Box, Label, Loading, Manifest, Record, TextViews, preset_box
from domainvl.data.preset import Preset

PRESET = Preset("toy", 32)
COLUMNS = ["image", "patient", "split", "Edema", "report", "caption", "note"]
LONG = "FINDINGS: Clear lungs. No edema. IMPRESSION: Normal."
BOXES = ["dicom_id", "category_name", "label_text", "x", "y", "w", "h", "image_width", "image_height"]


@pytest.fixture
def study(tmp_path):
    for n in range(6):
        save(tmp_path / "images" / f"{n}.png", seed=n)
    reports = [LONG, "Clear lungs without sections.", "", "reports/3.txt", LONG, LONG]
    rows = [
        [f"images/{n}.png", f"p{n}", ("train", "test")[n % 2], "1", reports[n], f"caption {n}", f"note {n}"]
        for n in range(6)
    ]
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "3.txt").write_text("Nothing but one paragraph of text.\n")
    table(tmp_path / "studies.csv", COLUMNS, rows)
    return tmp_path


def texts_of(root, **arguments):
    columns = {name: arguments.pop(name) for name in ("text_columns", "boxes_table") if name in arguments}
    data = ChestXrays(
        str(root),
        label_columns=["Edema"],
        preset=PRESET,
        loading=Loading(workers=0),
        **columns,
        texts=TextViews(**arguments),
    )
    data.setup("test")
    return {
        index: text
        for batch in data.test_dataloader()
        for index, text in zip(batch["index"].tolist(), batch["text"], strict=True)
    }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            {"views": {"report": 1}},
            ["Clear lungs without sections.", "Nothing but one paragraph of text.", "Clear lungs. No edema. Normal."],
        ),
        ({"views": {"impression": 1}}, [None, None, "Normal."]),
        ({}, ["Clear lungs without sections.", "Nothing but one paragraph of text.", "Normal."]),
        ({"views": {"caption": 1}}, ["caption 1", "caption 3", "caption 5"]),
        ({"views": {"note": 1}, "text_columns": ["note"]}, ["note 1", "note 3", "note 5"]),
    ],
)
def test_views_of_a_table(study, arguments, expected):
    assert texts_of(study, **arguments) == {n: text for n, text in zip((1, 3, 5), expected, strict=True) if text}


def test_pairs_need_no_labels(study):
    rows = [[f"images/{n}.png", f"p{n}", "train", f"c{n}"] for n in range(6)]
    table(study / "pairs.csv", ["image", "patient", "split", "caption"], rows)
    data = ChestXrays(str(study), table="pairs.csv", preset=PRESET, texts=TextViews(views={"caption": 1}))
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert sorted(batch["text"]) == [f"c{n}" for n in range(6)]
    assert (data.classes, batch["label"].shape) == ([], (6, 0))
    with pytest.raises(ValueError, match=r"there are no classes: .* Name label_columns, or give texts"):
        ChestXrays(str(study), table="pairs.csv", preset=PRESET).setup("fit")


def test_a_text_column_must_exist(study):
    with pytest.raises(ValueError, match=r"no column 'notes'; did you mean 'note'"):
        texts_of(study, text_columns=["notes"])


def test_a_report_path_stays_inside_the_root(study):
    path = study / "studies.csv"
    path.write_text(path.read_text().replace("reports/3.txt", "../../secret.txt"))
    with pytest.raises(ValueError, match="row 5: the report path leads out of the root"):
        texts_of(study)


def test_boxes_of_a_table_are_joined_on_the_file_name(study):
    rows = [["1", "Edema", "some edema", 1, 2, 3, 4, 40, 30], ["1", "Edema", "more edema", 5, 6, 7, 8, 40, 30]]
    table(study / "ms.csv", BOXES, [*rows, ["elsewhere", "Edema", "x", 1, 2, 3, 4, 40, 30]])
    data = ChestXrays(str(study), table="studies.csv", boxes_table="ms.csv")
    with pytest.warns(UserWarning, match=r"1 of 2 images of ms\.csv are not in the data set"):
        boxes = [record.boxes for record in data.manifest.records]
    assert boxes == [
        (),
        (Box("some edema", 1, 2, 4, 6, 40, 30), Box("more edema", 5, 6, 12, 14, 40, 30)),
        (),
        (),
        (),
        (),
    ]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (["1", "c", "p", 1, 2, 3, "", 40, 30], "row 2: could not convert"),
        (["1", "c", "p", 1, 2, 3, "nan", 40, 30], "row 2: Box: .* is no box inside a picture of 40 x 30"),
        (["1", "c", "p", 39, 2, 3, 4, 40, 30], "row 2: Box: .* is no box"),
        (["9", "c", "p", 1, 2, 3, 4, 40, 30], "none of its 1 images is one of toy; its column dicom_id should hold"),
    ],
)
def test_a_wrong_box_is_named_by_its_row(tmp_path, row, says):
    path = table(tmp_path / "ms.csv", BOXES, [row])
    manifest = Manifest("toy", tmp_path, (Record("x/1.png", "x/1.png", "p"),))
    with pytest.raises(ValueError, match=says):
        with_boxes(manifest, path)


def test_mimic_takes_boxes_of_ms_cxr(tmp_path):
    from cxr_layouts import mimic

    root = mimic(tmp_path)
    plain = MimicCxrJpg().read(root)
    image = plain.records[3].id
    table(root / "MS_CXR.csv", BOXES, [[image, "Edema", "edema", 1, 2, 3, 4, 40, 30]])
    found = MimicCxrJpg(boxes="MS_CXR.csv").read(root)
    assert [record.id for record in found.records if record.boxes] == [image]


def test_the_samples_are_whole_pairs(tmp_path, monkeypatch):
    folder = samples.write("cxr", tmp_path / "cxr", patients=24)
    monkeypatch.setattr(samples, "cached", lambda domain: folder)
    data = ChestXrays(preset=PRESET, loading=Loading(workers=0), texts=TextViews(sentences=True), augment=Augment())
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert all(batch["text"])
    assert len(set(batch["study"].tolist())) == len(batch["study"])
    records = data.manifest.records
    assert len(set(zip(batch["group"].tolist(), batch["patient"], strict=True))) == len(set(batch["patient"]))
    for box in (box for record in records for box in record.boxes):
        x0, y0, x1, y1 = preset_box(box, PRESET)
        assert 0 <= x0 < x1 <= 32
        assert 0 <= y0 < y1 <= 32
    stated = {record.path for record in records if Label.POSITIVE in record.labels}
    boxed = {record.path for record in records if record.boxes}
    assert boxed
    assert boxed <= stated
