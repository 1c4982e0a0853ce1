"""Bad input gets a clear error and nothing is lost: one table or folder of a person's own, spoilt in one place."""

import csv
import re

import pytest
from cxr_layouts import dicom, picture, save, table, without_pixels
from PIL import Image

from data_modules import ChestXrays
from domainvl.data import LabelPolicy, TooManyRejects
from domainvl.data.loading import Loading
from domainvl.data.preset import Preset

COLUMNS = ("image", "patient", "split", "view", "Edema", "Mass", "age", "report")
PRESET = Preset("toy", 16)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def cells(n):
    split = ("train", "train", "validate", "test")[n % 4]
    return [
        f"images/{n}.png",
        f"p{n}",
        split,
        "PA",
        ("1", "0", "0")[n % 3],
        ("0", "-1", "1")[n % 3],
        str(20 + n),
        "FINDINGS: Wet.",
    ]


@pytest.fixture
def study(tmp_path):
    """40 readable images of 40 patients, one row each."""
    for n in range(40):
        save(tmp_path / "images" / f"{n}.png", seed=n)
    write(tmp_path, [cells(n) for n in range(40)])
    return tmp_path


def write(root, rows, columns=COLUMNS):
    table(root / "studies.csv", columns, rows)


def data(root, **arguments):
    return ChestXrays(str(root), **{"preset": PRESET, "loading": Loading(workers=2, reject_share=0.05), **arguments})


def loaded(root, stage="test", **arguments):
    module = data(root, **arguments)
    module.rejects.path = root / "rejects.csv"
    module.setup(stage)
    return module


def test_the_columns_of_a_plain_table_are_found(study):
    module = loaded(study, "fit")
    assert module.classes == ["Edema", "Mass"]
    assert module.manifest.counts() == {"train": 20, "validate": 10, "test": 10}
    assert module.manifest.records[1].findings == "Wet."
    assert module.prompts.negative_texts("Edema") == ["a chest x-ray showing no Edema."]


def test_a_missing_root(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ChestXrays: root .*/nowhere does not exist; the folder"):
        loaded(tmp_path / "nowhere")


def test_a_root_below_which_nothing_lies(study):
    (study / "images").rename(study / "pictures")
    with pytest.raises(
        FileNotFoundError, match=r"none of the first 40 images exists .* should hold the folder .images.; give the root"
    ):
        loaded(study)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"image_column": "imgae"},
            r"no column 'imgae'; did you mean 'image'\? Its columns are: image, patient, split",
        ),
        ({"patient_column": "subject"}, r"no column 'subject'\. Its columns are: image, patient"),
        ({"label_columns": ["Edema", "Mas"]}, r"no column 'Mas'; did you mean 'Mass'"),
        ({"split_column": "Split"}, "did you mean 'split'"),
        ({"class_column": "kind"}, "no column 'kind'"),
        ({"table": "study.csv"}, r"table .*study.csv does not exist; did you mean 'studies.csv'"),
    ],
)
def test_a_missing_column_or_table(study, arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        loaded(study, **arguments)


def test_an_unknown_class(study):
    with pytest.raises(ValueError, match=r"unknown class 'edma'; did you mean 'Edema'\? The classes are: Edema, Mass"):
        loaded(study, classes=["edma"])


def test_an_empty_split(study):
    write(study, [row for row in map(cells, range(40)) if row[2] != "test"])
    with pytest.raises(ValueError, match="the test split is empty; images per split: train 20, validate 10"):
        loaded(study)


def test_k_larger_than_a_class(study):
    with pytest.raises(ValueError, match="shots is 16, but only 7 training patients have 'Edema'"):
        loaded(study, "fit", shots=16)


def truncated(path):
    whole = path.with_suffix(".jpg")
    Image.fromarray(picture(200)).save(whole)
    path.write_bytes(whole.read_bytes()[:4000])


def no_pixels(path):
    without_pixels(path)


BAD_FILES = [
    ("truncated JPEG", truncated, "the image is damaged: .*truncated"),
    ("zero-byte file", lambda path: path.write_bytes(b""), r"the file is empty \(0 bytes\)"),
    ("DICOM without pixel data", no_pixels, "the DICOM file has no pixel data"),
    ("text", lambda path: path.write_text("<html>not found</html>"), "no image that Pillow knows; .*<html>"),
    ("nothing", lambda path: path.unlink(), "the file does not exist"),
    ("cut PNG", lambda path: path.write_bytes(path.read_bytes()[:200]), "the image is damaged"),
]


@pytest.mark.parametrize(("spoil", "reason"), [row[1:] for row in BAD_FILES], ids=[row[0] for row in BAD_FILES])
def test_an_unreadable_file_is_rejected_with_its_reason(study, spoil, reason):
    spoil(study / "images" / "3.png")
    module = loaded(study)
    assert [index for batch in module.test_dataloader() for index in batch["index"].tolist()] == list(range(7, 40, 4))
    (reject,) = csv.DictReader((study / "rejects.csv").open())
    assert (reject["row"], reject["path"]) == ("5", "images/3.png")
    assert re.search(reason, reject["reason"])
    assert str(study) not in reject["reason"]


@pytest.mark.parametrize(("spoil", "reason"), [row[1:] for row in BAD_FILES], ids=[row[0] for row in BAD_FILES])
def test_above_the_share_the_run_stops(study, spoil, reason):
    spoil(study / "images" / "3.png")
    with pytest.raises(TooManyRejects, match=rf"1 of 40 rows .*row 5: .*{reason}.*rejects\.csv"):
        loaded(study, loading=Loading(reject_share=0.02))


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("I;16", "png"), ("RGBA", "png"), ("P", "png"), ("LA", "png"), ("1", "png"), ("CMYK", "tif"), ("L", "dcm")],
)
def test_unusual_but_whole_files_are_read(study, mode, suffix):
    path = save(study / "images" / f"odd.{suffix}", mode, seed=3)
    path.rename(study / "images" / "3.png")
    module = loaded(study)
    assert not len(module.rejects)
    assert module._sets["test"].pixels[0].float().std() > 20


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("nan", "Edema: NaN is no label; labels are 1, 0, -1"),
        ("NaN", "Edema: NaN is no label"),
        ("2", "Edema: '2' is no label"),
    ],
)
def test_a_nan_label(study, cell, reason):
    rows = [cells(n) for n in range(40)]
    rows[3][4] = cell
    write(study, rows)
    module = loaded(study, label_columns=["Edema", "Mass"])
    (reject,) = module.rejects
    assert (reject.row, reject.path) == (5, "images/3.png")
    assert reason in reject.reason
    assert len(module.manifest.records) == 39


def test_an_empty_class_cell(study):
    rows = [[*cells(n), "ab"[n % 2]] for n in range(40)]
    rows[3][-1] = ""
    write(study, rows, (*COLUMNS, "label"))
    module = loaded(study)
    assert (module.classes, module.multilabel) == (["a", "b"], False)
    assert [reject.reason for reject in module.rejects] == ["label: an empty cell is no class"]


def test_duplicate_rows(study):
    write(study, [cells(n) for n in (*range(40), 3)])
    module = loaded(study)
    assert [(one.row, one.reason) for one in module.rejects] == [(42, "repeats row 5")]
    assert len(module.manifest.records) == 40


def test_rows_that_contradict_each_other(study):
    other = cells(3)
    other[4] = "-1"
    write(study, [*(cells(n) for n in range(40)), other])
    with pytest.raises(ValueError, match=r"rows 5 and 42 describe the same image and differ"):
        loaded(study)


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "images/../../x.png"])
def test_a_path_that_escapes_the_root(study, path):
    rows = [cells(n) for n in range(40)]
    rows[3][0] = path
    write(study, rows)
    with pytest.raises(ValueError, match=r"studies.csv: row 5: the image path .* root .*; make it relative"):
        loaded(study)


def test_a_patient_in_two_splits(study):
    rows = [cells(n) for n in range(40)]
    rows[3][1] = rows[0][1]
    write(study, rows)
    with pytest.raises(ValueError, match=r"1 of 39 patients are in more than one split \('p0' in train and test\)"):
        loaded(study)


def test_a_missing_patient_is_rejected(study):
    rows = [cells(n) for n in range(40)]
    rows[3][1] = ""
    write(study, rows)
    assert [one.reason for one in loaded(study).rejects] == ["patient: the patient is missing"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; its first line must name the columns"),
        ("image,patient,patient\n", "column 'patient' is there twice"),
        ("image,Edema\nimages/1.png\n", "row 2 has 1 cells, the header names 2"),
        ("image,age\nimages/1.png,33\n", "no column holds labels"),
        ("image,Edema,split\nimages/1.png,1,holdout\n", "row 2: 'holdout' is no split"),
        ("image,Edema\n", "holds no image that can be used|no column holds labels"),
    ],
)
def test_a_broken_table(study, text, message):
    (study / "studies.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        loaded(study)


def test_a_table_that_is_not_utf8(study):
    (study / "studies.csv").write_bytes("image,Edema\nimages/1.png,1\nimages/é.png,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8"):
        loaded(study)


@pytest.mark.parametrize("cut", [5, 60, 100])
def test_a_packed_table_that_is_cut_off(study, cut):
    packed = table(study / "packed.csv.gz", COLUMNS, [cells(n) for n in range(40)])
    assert len(loaded(study, table="packed.csv.gz").manifest.records) == 40
    packed.write_bytes(packed.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"packed\.csv\.gz is no whole gzip file"):
        loaded(study, table="packed.csv.gz")


def test_excel_tables_are_read(study):
    rows = [cells(n) for n in range(40)]
    text = "\n".join(";".join(row) for row in [list(COLUMNS), *rows])
    (study / "studies.csv").write_bytes(text.encode("utf-8-sig"))
    assert len(loaded(study).manifest.records) == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"root": None, "table": "x.csv"}, "table is given without a root"),
        ({"root": "/x", "label_columns": ["a"], "class_column": "b"}, "exclude each other"),
    ],
)
def test_arguments_that_contradict_each_other(arguments, message):
    with pytest.raises(ValueError, match=message):
        ChestXrays(**arguments)


def test_a_layout_needs_no_columns(tmp_path):
    from data_modules import OpenI

    with pytest.raises(ValueError, match="image_column is given, but layout OpenI knows"):
        ChestXrays(str(tmp_path), layout=OpenI(), image_column="x")
    with pytest.raises(ValueError, match="layout OpenI needs the root"):
        ChestXrays(layout=OpenI())


def test_an_explicit_policy_fills_blanks(study):
    rows = [cells(n) for n in range(40)]
    rows[3][4] = ""
    write(study, rows)
    valid = [
        loaded(study, labels=policy)._sets["test"].valid[0].tolist()
        for policy in ("ignore", LabelPolicy(blank="negative"))
    ]
    assert valid == [[False, True], [True, True]]


def test_class_folders(tmp_path):
    for n in range(12):
        save(tmp_path / ("edema", "normal")[n % 2] / f"{n}.png", seed=n)
    with pytest.warns(UserWarning, match="no patient is known"):
        module = loaded(tmp_path, "fit")
    assert module.classes == ["edema", "normal"]
    assert (module.multilabel, sum(module.manifest.counts().values())) == (False, 12)


def test_class_folders_below_split_folders(tmp_path):
    for split in ("train", "val", "test"):
        for n in range(4):
            save(tmp_path / split / "ab"[n % 2] / f"{n}.png", seed=n)
    module = loaded(tmp_path, "fit", shots=1)
    assert module.manifest.counts() == {"train": 4, "validate": 4, "test": 4}
    assert [len(module._sets[split]) for split in ("train", "validate")] == [2, 2]


def test_no_error_names_a_patient_or_a_report(study):
    """DICOM headers carry names; a rejected file must not put them into the list."""
    dicom(picture().astype("uint16"), NumberOfFrames=3).save_as(study / "images" / "3.png", enforce_file_format=True)
    loaded(study)
    assert "SECRET" not in (study / "rejects.csv").read_text()
    assert "3 frames" in (study / "rejects.csv").read_text()
