"""Public patch sets as they lie on disk: HDF5 and .npy stacks, TIFF and PNG folders, tables. Add a row to LAYOUTS."""

import csv
import warnings

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from data_modules import (
    Bach,
    HistologyPatches,
    ImageTable,
    Mhist,
    NctCrcHe,
    PanNuke,
    PatchCamelyon,
    Quilt1M,
    VisibleSentences,
)
from domainvl.data.labels import Label
from domainvl.data.preset import Preset
from domainvl.data.texts.views import TextViews

PRESET = Preset(name="toy", size=16)
NCT = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")


def colours(count, size=24, seed=0):
    """Pictures of one colour each, so that a mix-up shows."""
    shades = np.random.default_rng(seed).integers(0, 256, (count, 1, 1, 3))
    return np.broadcast_to(shades, (count, size, size, 3)).astype(np.uint8)


def picture(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((24, 32, 3), shade, np.uint8)).save(path)


def table(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def pcam(root, meta=True):
    for number, name in enumerate(("train", "valid", "test")):
        stem = f"camelyonpatch_level_2_split_{name}"
        with h5py.File(root / f"{stem}_x.h5", "w") as file:
            file["x"] = colours(6, seed=number)
        with h5py.File(root / f"{stem}_y.h5", "w") as file:
            file["y"] = np.array([0, 1] * 3, np.uint8).reshape(-1, 1, 1, 1)
        if meta:
            rows = [[i, 10, 20, i % 2, i % 2, f"camelyon16_{name}_tumor_{i // 2:03d}"] for i in range(6)]
            table(
                root / f"{stem}_meta.csv", ["", "coord_y", "coord_x", "tumor_patch", "center_tumor_patch", "wsi"], rows
            )


def crc(root):
    for folder, count in (("NCT-CRC-HE-100K", 4), ("CRC-VAL-HE-7K", 1)):
        for place, name in enumerate(NCT):
            for number in range(count):
                picture(root / folder / name / f"{name}-{folder[:3]}{number}.tif", 20 * place)


def mhist(root):
    cases = [("HP", "train"), ("SSA", "train"), ("HP", "test"), ("SSA", "test")] * 3
    for number in range(len(cases)):
        picture(root / "images" / f"MHIST_{number:03d}.png")
    rows = [[f"MHIST_{number:03d}.png", label, 3, part] for number, (label, part) in enumerate(cases)]
    columns = ["Image Name", "Majority Vote Label", "Number of Annotators who Selected SSA (Out of 7)", "Partition"]
    table(root / "annotations.csv", columns, rows)


def bach(root):
    owners = []
    for letter, name in (("n", "Normal"), ("b", "Benign"), ("is", "InSitu"), ("iv", "Invasive")):
        for number in range(6):
            picture(root / "Photos" / name / f"{letter}{number:03d}.tif")
            owners.append([f"{letter}{number:03d}.tif", f"{letter}{number // 2}"])
    table(root / "patients.csv", ["image", "patient"], owners)


def pannuke(root):
    for fold in (1, 2, 3):
        masks = np.zeros((4, 24, 24, 6))
        masks[::2, 3:5, 3:5, 0] = 7
        files = {
            f"Fold {fold}/images/fold{fold}/images.npy": colours(4, seed=fold).astype(np.float64),
            f"Fold {fold}/images/fold{fold}/types.npy": np.array(["Breast", "Colon", "Bile-duct", "Breast"]),
            f"Fold {fold}/masks/fold{fold}/masks.npy": masks,
        }
        for name, values in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            np.save(root / name, values)


LAYOUTS = {
    "pcam": (pcam, PatchCamelyon(), {"train": 6, "validate": 6, "test": 6}, 2),
    "crc": (crc, NctCrcHe(), {"train": 33, "validate": 3, "test": 9}, 9),
    "mhist": (mhist, Mhist(), {"train": 5, "validate": 1, "test": 6}, 2),
    "bach": (bach, Bach(patients="patients.csv"), None, 4),
    "pannuke": (pannuke, PanNuke(), {"train": 4, "validate": 4, "test": 4}, 3),
    "pannuke neoplastic": (pannuke, PanNuke(label="neoplastic", folds=(2, 3, 1)), {"train": 4}, 2),
}


def module(root, layout, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = HistologyPatches(str(root), layout=layout, preset=PRESET, seed=0, **settings)
        assert data.manifest
    return data


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_read_to_its_pixels(name, tmp_path):
    make, layout, counts, classes = LAYOUTS[name]
    make(tmp_path)
    data = module(tmp_path, layout)
    found = data.manifest.counts()
    assert {split: found[split] for split in counts or {}} == (counts or {})
    assert len(data.classes) == classes
    assert not data.multilabel
    for record in data.manifest.records:
        assert [label for label in record.labels if label is Label.POSITIVE] == [Label.POSITIVE]
    for split in ("train", "validate", "test"):
        owners = {r.patient for r in data.manifest.records if r.split == split}
        others = {r.patient for r in data.manifest.records if r.split != split}
        assert not owners & others
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape[1:] == (3, 16, 16)
    assert batch["image"].dtype == torch.uint8


@pytest.mark.parametrize("name", ["pcam", "pannuke"])
def test_a_stack_gives_the_picture_of_its_record(name, tmp_path):
    make, layout, *_ = LAYOUTS[name]
    make(tmp_path)
    data = module(tmp_path, layout)
    for record in data.manifest.records:
        fold = {"train": 0, "validate": 1, "test": 2}[record.split] + (name == "pannuke")
        shade = colours(6 if name == "pcam" else 4, seed=fold)[record.part[0], 0, 0]
        found = data.decoder.read(record, tmp_path)
        assert found.flatten(1).float().mean(dim=1).tolist() == shade.tolist()


def test_labels_are_those_of_the_files(tmp_path):
    for name, make in (("pcam", pcam), ("pannuke", pannuke)):
        (tmp_path / name).mkdir()
        make(tmp_path / name)
    slides = module(tmp_path / "pcam", PatchCamelyon()).manifest
    assert [r.labels.index(Label.POSITIVE) for r in slides.records] == [0, 1] * 9
    assert slides.records[5].patient == "camelyon16_train_tumor_002"
    nuclei = module(tmp_path / "pannuke", PanNuke(label="neoplastic")).manifest
    assert [r.labels.index(Label.POSITIVE) for r in nuclei.records] == [1, 0, 1, 0] * 3
    assert module(tmp_path / "pannuke", PanNuke()).classes == ["bile-duct", "breast", "colon"]


QUILT = ["caption", "image_path", "subset", "split", "roi_text", "corrected_text", "single_wsi", "not_histology"]
PAIRS = [
    [
        "Sheets of tumor cells.",
        "vidA_image_1.jpg",
        "quilt",
        "train",
        "['tumor', 'necrosis']",
        "['so here']",
        "1.0",
        "0",
    ],
    ["Necrosis in the middle.", "vidA_image_1.jpg", "quilt", "train", "['necrosis']", "[]", "1.0", "0"],
    ["Necrosis in the middle.", "vidA_image_2.jpg", "quilt", "train", "[]", "[]", "1.0", "0"],
    ["Normal glands are here.", "vidA_image_3.jpg", "quilt", "train", "[]", "[]", "0.0", "0"],
    ["Normal glands are here.", "vidB_image_1.jpg", "quilt", "train", "[]", "[]", "1.0", "0"],
    ["A man at his desk.", "vidB_image_2.jpg", "quilt", "train", "[]", "[]", "1.0", "1.0"],
    ["Yes.", "vidC_image_1.jpg", "quilt", "val", "[]", "[]", "1.0", "0"],
    ["Fat and stroma only.", "twitter7.jpg", "openpath", "val", "[]", "[]", "", ""],
]


def quilt(root):
    table(root / "quilt_1M_lookup.csv", QUILT, PAIRS)
    for name in {row[1] for row in PAIRS}:
        picture(root / name)


def test_quilt_is_many_to_many(tmp_path):
    quilt(tmp_path)
    manifest = Quilt1M().read(tmp_path)
    by_name = {record.path: record for record in manifest.records}
    assert list(by_name) == [f"vidA_image_{n}.jpg" for n in (1, 2, 3)] + ["vidB_image_1.jpg", "twitter7.jpg"]
    first = by_name["vidA_image_1.jpg"]
    assert first.texts["caption"] == "Sheets of tumor cells."
    assert first.texts["caption_2"] == "Necrosis in the middle."
    assert first.texts["caption_3"] == ""
    assert (first.texts["roi_text"], first.texts["corrected_text"]) == ("tumor necrosis", "so here")
    # A shared caption makes a match within a video, and a video is a unit of splits.
    assert first.study == by_name["vidA_image_2.jpg"].study != by_name["vidA_image_3.jpg"].study
    assert by_name["vidA_image_3.jpg"].study != by_name["vidB_image_1.jpg"].study
    assert [record.patient for record in manifest.records] == ["vidA"] * 3 + ["vidB", "twitter7.jpg"]
    assert manifest.warnings == ("impure pairs are left out: 1 marked not_histology, 1 with captions below 3 words",)
    strict = Quilt1M(single_slide=True, captions=1).read(tmp_path)
    assert [record.path for record in strict.records] == ["vidA_image_1.jpg", "vidA_image_2.jpg", "vidB_image_1.jpg"]
    assert set(strict.records[0].texts) == {"caption", "roi_text", "corrected_text"}


def test_quilt_gives_batches_with_texts_and_groups(tmp_path):
    quilt(tmp_path)
    views = TextViews({"caption": 1.0, "caption_2": 1.0}, one_per_study=False)
    data = module(tmp_path, Quilt1M(), texts=views)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert len(batch["text"]) == 4
    assert len(set(batch["study"].tolist())) == 3


def test_reports_keep_what_the_picture_shows(tmp_path):
    picture(tmp_path / "a.png")
    said = "Sheets of tumor cells. Ki-67 is 20%. No perineural invasion."
    table(tmp_path / "studies.csv", ["image", "patient", "caption"], [["a.png", "p", said]])
    with pytest.warns(UserWarning, match="ihc +1 dropped"):
        manifest = VisibleSentences(ImageTable()).read(tmp_path)
    assert manifest.records[0].texts["caption"] == "Sheets of tumor cells. No perineural invasion."


def test_report_files_keep_what_the_picture_shows(tmp_path):
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text(
        "FINDINGS:\nReceived in formalin.\nNests of cells.\n\nIMPRESSION:\nMelanoma. BRAF mutated."
    )
    rows = [["a.png", "p", "a.txt"], ["b.png", "q", "missing.txt"]]
    table(tmp_path / "studies.csv", ["image", "patient", "report"], rows)
    with pytest.warns(UserWarning, match="molecular +1 dropped"):
        first, second = VisibleSentences(ImageTable()).read(tmp_path).records
    assert (first.findings, first.impression, first.report) == ("Nests of cells.", "Melanoma.", "")
    assert (second.findings, second.impression) == ("", "")


def packed(root):
    pcam(root)
    name = "camelyonpatch_level_2_split_test_x.h5"
    (root / name).rename(root / f"{name}.gz")


def untested(root):
    crc(root)
    (root / "CRC-VAL-HE-7K").rename(root / "VAL")


def strange(root):
    crc(root)
    (root / "CRC-VAL-HE-7K" / "XYZ").mkdir()


def unmasked(root):
    pannuke(root)
    (root / "Fold 2/masks/fold2/masks.npy").unlink()


def incomplete(root):
    bach(root)
    table(root / "patients.csv", ["image", "patient"], [["n000.tif", "x"]])


@pytest.mark.parametrize(
    ("make", "layout", "message"),
    [
        (packed, PatchCamelyon(), "unpack it with gunzip"),
        (untested, NctCrcHe(), "CRC-VAL-HE-7K is missing"),
        (strange, NctCrcHe(), "holds XYZ"),
        (unmasked, PanNuke("neoplastic"), "label: neoplastic reads it"),
        (incomplete, Bach("patients.csv"), "has no row for"),
        (lambda r: table(r / "quilt_1M_lookup.csv", ["text", "image_path"], []), Quilt1M(), "no column 'caption'"),
        (lambda r: table(r / "annotations.csv", ["Image Name"], []), Mhist(), "Majority Vote Label"),
    ],
)
def test_what_is_missing_is_named(make, layout, message, tmp_path):
    make(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        layout.read(tmp_path)


def test_a_slide_counts_as_a_patient_only_where_it_is_known(tmp_path):
    pcam(tmp_path, meta=False)
    assert "slide of its own" in PatchCamelyon().read(tmp_path).warnings[0]
