"""Pixels and text come out as they were meant."""

import random

import numpy as np
import pytest
from cxr_layouts import dicom, picture, save
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from data_modules.readers.dicom import display, read_dicom
from data_modules.readers.image import read_image
from domainvl.data import UnreadableImage
from domainvl.data.texts.reports import clean, sentences, split_report

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def written(tmp_path, dataset):
    path = tmp_path / "x.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


def voi_lut(bits=12):
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4096, 0, bits])
    data = (np.sqrt(np.arange(4096) / 4095) * (2**bits - 1)).astype(np.uint16).tobytes()
    table.add_new("LUTData", "OW", data)
    return {"VOILUTSequence": [table]}


WINDOWS = [
    ("none", {}),
    ("window", {"WindowCenter": 2000, "WindowWidth": 1000}),
    ("exact", {"WindowCenter": 2000, "WindowWidth": 1000, "VOILUTFunction": "LINEAR_EXACT"}),
    ("sigmoid", {"WindowCenter": 2000, "WindowWidth": 1000, "VOILUTFunction": "SIGMOID"}),
    ("two windows", {"WindowCenter": [2000, 500], "WindowWidth": [1000, 100]}),
    ("rescale", {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 3000, "WindowWidth": 2000}),
    ("table", voi_lut()),
]


@pytest.mark.parametrize("tags", [row[1] for row in WINDOWS], ids=[row[0] for row in WINDOWS])
def test_monochrome1_is_inverted_monochrome2(tmp_path, tags):
    bright = np.asarray(read_dicom(written(tmp_path, dicom(RAMP, "MONOCHROME2", **tags)))).astype(int)
    dark = np.asarray(read_dicom(written(tmp_path, dicom(RAMP, "MONOCHROME1", **tags)))).astype(int)
    assert np.abs(bright + dark - 255).max() <= 1
    assert bright.max() > 250
    assert bright.min() < 5
    assert (np.diff(bright.ravel()) >= 0).all()


@pytest.mark.parametrize("tags", [row[1] for row in WINDOWS[1:]], ids=[row[0] for row in WINDOWS[1:]])
def test_windows_agree_with_pydicom(tags):
    dataset = dicom(RAMP, **tags)
    expected = apply_voi_lut(apply_modality_lut(RAMP, dataset), dataset).astype(float)
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    low, high = intercept, 4095 * slope + intercept
    np.testing.assert_allclose(display(dataset, RAMP), (expected - low) / (high - low), atol=1e-9)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"WindowCenter": 5, "WindowWidth": 0}, "window is 0 wide"),
        ({"NumberOfFrames": 2}, "has 2 frames"),
        ({"Rows": 60000, "Columns": 60000}, "more than is plausible"),
        ({"Rows": 80}, "do not fit the header"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "kind PALETTE COLOR"),
    ],
)
def test_what_a_dicom_file_gets_wrong_is_named(tmp_path, tags, reason):
    with pytest.raises(UnreadableImage, match=reason):
        read_image(written(tmp_path, dicom(RAMP, **tags)))


def test_an_unsupported_compression_is_named(tmp_path):
    dataset = dicom(RAMP)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.70"
    dataset.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    dataset["PixelData"].is_undefined_length = True
    with pytest.raises(UnreadableImage, match="no installed decoder reads JPEG Lossless"):
        read_image(written(tmp_path, dataset))


def test_a_file_that_only_claims_to_be_dicom(tmp_path):
    (tmp_path / "x.dcm").write_text("no dicom")
    with pytest.raises(UnreadableImage, match="DICM mark is missing"):
        read_image(tmp_path / "x.dcm")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp", "dcm"])
def test_damage_is_always_a_stated_reason(tmp_path, suffix):
    """Bytes changed or cut anywhere: the file is read or refused, and nothing else happens."""
    whole = save(tmp_path / f"x.{suffix}").read_bytes()
    generator = random.Random(suffix)
    refused = 0
    for _ in range(150):
        data = bytearray(whole[: generator.randrange(1, len(whole))] if generator.random() < 0.3 else whole)
        for _ in range(generator.choice([1, 3, 20])):
            data[generator.randrange(len(data))] = generator.randrange(256)
        (tmp_path / f"y.{suffix}").write_bytes(data)
        try:
            read_image(tmp_path / f"y.{suffix}")
        except UnreadableImage:
            refused += 1
    assert refused > 20


def test_dicom_is_known_by_content_not_by_name(tmp_path):
    path = written(tmp_path, dicom(RAMP)).rename(tmp_path / "1.2.3")
    assert read_image(path).size == (64, 64)


def test_sixteen_bits_use_the_images_own_range(tmp_path):
    Image.fromarray(RAMP + 100).save(tmp_path / "x.png")
    read = np.asarray(read_image(tmp_path / "x.png"))
    np.testing.assert_array_equal(read, np.rint(RAMP / 4095 * 255).astype(np.uint8))
    Image.fromarray(np.full((4, 4), 900, np.uint16)).save(tmp_path / "flat.png")
    assert np.asarray(read_image(tmp_path / "flat.png")).max() == 0


def test_transparency_is_laid_over_black(tmp_path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0] = (200, 200, 200, 255)
    pixels[1] = (200, 200, 200, 0)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert np.asarray(read_image(tmp_path / "x.png"))[:, 0, 0].tolist() == [200, 0]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_plain_images_are_read_as_they_are(tmp_path, mode):
    image = Image.fromarray(picture()).convert(mode)
    image.save(tmp_path / "x.png")
    read = read_image(tmp_path / "x.png")
    assert read.mode == mode
    assert np.array_equal(np.asarray(read), np.asarray(image))


def test_another_librarys_tolerance_of_truncated_files_is_not_ours(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    Image.fromarray(picture(200)).save(tmp_path / "x.jpg")
    (tmp_path / "x.jpg").write_bytes((tmp_path / "x.jpg").read_bytes()[:4000])
    with pytest.raises(UnreadableImage, match="truncated"):
        read_image(tmp_path / "x.jpg")


PLAIN = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with new onset ascites

 FINDINGS:

 There is no focal consolidation.  A 1.5 cm nodule is seen.

 IMPRESSION:

 No acute process.
"""
AMENDED = """ WET READ: ___ ___ 9:12 PM
  No change.
 ______________________________________________________________________________
                                 FINAL REPORT
 IMPRESSION:  First.
 IMPRESSION:  Second.
"""
ADDENDUM = """ ADDENDUM  Findings were discussed: yes.
 IMPRESSION: not this one
 ______________________________________________________________________________
                                 FINAL REPORT
 FINDINGS AND IMPRESSION:  Clear lungs.
"""
REPORTS = [
    (
        "plain",
        PLAIN,
        "There is no focal consolidation. A 1.5 cm nodule is seen.",
        "No acute process.",
        "No acute process.",
    ),
    ("last impression", AMENDED, "", "Second.", "Second."),
    ("addendum", ADDENDUM, "Clear lungs.", "Clear lungs.", "Clear lungs."),
    ("spelling", "Conclusion: No edema.", "", "No edema.", "No edema."),
    ("one line", "FINDINGS: Big heart. IMPRESSION: Failure.", "Big heart.", "Failure.", "Failure."),
    ("no headers", "AP chest.\n\nThe lungs are clear today.\n\n", "", "", "The lungs are clear today."),
    ("findings only", "FINDINGS: Big heart.\nRECOMMENDATION: CT.", "Big heart.", "", "Big heart."),
    ("empty impression", "FINDINGS: Big.\nIMPRESSION: ___\n", "Big.", "", "Big."),
    ("nothing", "", "", "", ""),
    (
        "header in prose",
        "FINDINGS: Seen in the following view: lateral.",
        "Seen in the following view: lateral.",
        "",
        "Seen in the following view: lateral.",
    ),
]


@pytest.mark.parametrize(
    ("text", "findings", "impression", "main"), [row[1:] for row in REPORTS], ids=[row[0] for row in REPORTS]
)
def test_reports_are_taken_apart(text, findings, impression, main):
    report = split_report(text)
    assert (report.findings, report.impression, report.text) == (findings, impression, main)
    assert split_report(text.replace("\n", "\r\n")) == report


def test_addendum_is_kept_apart():
    assert split_report(ADDENDUM).addendum.startswith("ADDENDUM Findings were discussed")
    assert "Clear" not in repr(split_report(ADDENDUM))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A 1.5 cm nodule. No edema.", ["A 1.5 cm nodule.", "No edema."]),
        ("1. No edema. 2. Big heart, 3.2 cm.", ["No edema.", "Big heart, 3.2 cm."]),
        ("Seen by Dr. Smith at 5 p.m. today. Clear.", ["Seen by Dr. Smith at 5 p.m. today.", "Clear."]),
        ("Measures 2 cm. No other.", ["Measures 2 cm.", "No other."]),
        ("", []),
    ],
)
def test_sentences_respect_decimals(text, expected):
    assert sentences(text) == expected


def test_marks_of_deidentification_go():
    assert clean("Dr. ___ saw\n  XXXX  it.") == "Dr. saw it."
