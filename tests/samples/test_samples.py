"""The sample sets: what is promised of the files on disk, and of the cache that hands them out."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from domainvl import samples
from domainvl.samples.cxr import FINDINGS

NAMES_IN_REPORTS = {
    "Cardiomegaly": r"cardiomegaly|enlarge\w* .*heart|heart size|silhouette",
    "Pleural Effusion": r"effusion",
    "Pneumothorax": r"pneumothorax",
    "Consolidation": r"consolidation",
    "Lung Lesion": r"nodul|lung lesion",
}
DENIALS = r"\b(no|not|without|free of|normal)\b"
DOUBTS = r"possible|excluded|may|questionable"


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "studies.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def sections(report: str) -> dict[str, str]:
    parts = re.split(r"^([A-Z]+):\n", report, flags=re.MULTILINE)
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def sentences_on(finding: str, text: str) -> list[str]:
    sentences = re.split(r"(?<=[.])\s+(?!\d)", text.lower())
    return [sentence for sentence in sentences if re.search(NAMES_IN_REPORTS[finding], sentence)]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.write("cxr", tmp_path_factory.mktemp("small") / "cxr", seed=3, patients=60)


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first = samples.write("cxr", tmp_path / "a", seed=7, patients=8)
    second = samples.write("cxr", tmp_path / "b", seed=7, patients=8)
    other = samples.write("cxr", tmp_path / "c", seed=8, patients=8)
    assert digests(first) == digests(second)
    assert digests(first) != digests(other)


def test_patients_never_cross_splits_and_all_splits_are_filled(small: Path) -> None:
    splits = defaultdict(set)
    for row in table(small):
        splits[row["patient"]].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert {split for found in splits.values() for split in found} == {"train", "validate", "test"}


def test_table_holds_the_promised_columns_and_values(small: Path) -> None:
    rows = table(small)
    assert list(rows[0]) == ["image", "patient", "study", "view", "split", "No Finding", *FINDINGS, "report"]
    assert {row["view"] for row in rows} == {"PA", "AP", "LATERAL"}
    assert {row[finding] for row in rows for finding in FINDINGS} == {"1", "0", "-1", ""}
    for row in rows:
        normal = all(row[finding] in ("0", "") for finding in FINDINGS)
        assert row["No Finding"] == ("1" if normal else "")
        assert (small / row["report"]).is_file()
    images = [row["image"] for row in rows]
    assert len(set(images)) == len(images)
    on_disk = {p.relative_to(small).as_posix() for p in (small / "images").rglob("*") if p.is_file()}
    assert on_disk == set(images)


def test_several_images_and_studies_per_patient(small: Path) -> None:
    images, studies = defaultdict(set), defaultdict(set)
    for row in table(small):
        images[row["patient"], row["study"]].add(row["image"])
        studies[row["patient"]].add(row["study"])
    assert max(map(len, images.values())) > 1
    assert max(map(len, studies.values())) > 1


def test_jpegs_are_grey_and_have_contrast(small: Path) -> None:
    names = [row["image"] for row in table(small) if row["image"].endswith(".jpg")]
    for name in names[:20]:
        with Image.open(small / name) as image:
            image.load()
            assert image.mode == "L"
            assert image.height == 256
            assert np.asarray(image).std() > 25


def test_dicoms_are_valid_12_bit_and_of_both_polarities(small: Path) -> None:
    import pydicom
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    names = [row["image"] for row in table(small) if row["image"].endswith(".dcm")]
    polarities = set()
    for name in names:
        film = pydicom.dcmread(small / name)
        polarities.add(film.PhotometricInterpretation)
        assert (film.BitsAllocated, film.BitsStored, film.HighBit) == (16, 12, 11)
        assert film.pixel_array.max() <= 4095
        assert film.RescaleSlope == 2
        assert film.PatientID == name.split("/")[1]
        shown = apply_voi_lut(apply_modality_lut(film.pixel_array, film), film)
        shown = (shown - shown.min()) / (shown.max() - shown.min())
        if film.PhotometricInterpretation == "MONOCHROME1":
            shown = 1 - shown
        # The spine is white and the corner above the shoulder is black, whichever way the values run.
        assert shown[96:160, 118:138].mean() > shown[:8, :8].mean() + 0.3 or film.ViewPosition == "LL"
    assert polarities == {"MONOCHROME1", "MONOCHROME2"}
    assert 0.05 < len(names) / len(table(small)) < 0.2


def test_reports_have_sections_and_agree_with_the_labels(small: Path) -> None:
    for row in table(small):
        report = sections((small / row["report"]).read_text(encoding="utf-8"))
        assert list(report) == ["EXAMINATION", "INDICATION", "COMPARISON", "FINDINGS", "IMPRESSION"]
        for finding in FINDINGS:
            said = sentences_on(finding, report["FINDINGS"])
            if row[finding] == "":
                assert not said, (row["report"], finding, said)
                continue
            assert said, (row["report"], finding)
            denied = any(re.search(DENIALS, sentence) for sentence in said)
            doubted = any(re.search(DOUBTS, sentence) for sentence in said)
            expected = {"1": (False, False), "0": (True, False)}.get(row[finding])
            if expected is not None:
                assert (denied, doubted) == expected, (row["report"], finding, said)
            else:
                assert doubted, (row["report"], finding, said)


def test_sides_in_the_report_agree_with_the_boxes(small: Path) -> None:
    truth = json.loads((small / "truth.json").read_text(encoding="utf-8"))
    checked = 0
    for row in table(small):
        drawn = truth[row["image"]]
        width, height = drawn["size"]
        report = (small / row["report"]).read_text(encoding="utf-8").lower()
        for finding, lesions in drawn["findings"].items():
            assert row[finding] in ("1", "-1")
            for lesion in lesions:
                left, top, right, bottom = lesion["box"]
                assert 0 <= left < right <= width
                assert 0 <= top < bottom <= height
                if row["view"] == "LATERAL" or row[finding] != "1" or not lesion["side"]:
                    continue
                said = " ".join(sentences_on(finding, sections(report.upper())["FINDINGS"]))
                assert lesion["side"] in said or "bilateral" in said
                middle = (left + right) / 2 / width
                assert (middle < 0.5) == (lesion["side"] == "right")
                checked += 1
    assert checked > 20


def test_phrases_are_the_reports_own_and_lie_where_the_truth_has_them(small: Path) -> None:
    truth = json.loads((small / "truth.json").read_text(encoding="utf-8"))
    rows = {row["image"]: row for row in table(small)}
    with (small / "boxes.csv").open(encoding="utf-8", newline="") as file:
        boxes = list(csv.DictReader(file))
    expected = set()
    for image, drawn in truth.items():
        for finding, lesions in drawn["findings"].items():
            if rows[image][finding] == "1":
                expected |= {(image, finding, *lesion["box"], *drawn["size"]) for lesion in lesions}
    found = set()
    for box in boxes:
        x, y, w, h = (int(box[name]) for name in "xywh")
        size = int(box["image_width"]), int(box["image_height"])
        found.add((box["image"], box["category_name"], x, y, x + w, y + h, *size))
        assert box["label_text"] in sections((small / rows[box["image"]]["report"]).read_text())["IMPRESSION"]
    assert found == expected
    assert {box["category_name"] for box in boxes} == set(FINDINGS)


def test_findings_leave_a_mark_where_the_boxes_say() -> None:
    from domainvl.samples.cxr.anatomy import draw_body
    from domainvl.samples.cxr.cases import Label, Lesion, Study
    from domainvl.samples.cxr.planting import radiograph

    rng = np.random.default_rng(0)
    body = draw_body(rng)
    for finding in FINDINGS[1:]:
        side, zone = "left", "mid"
        sick = Study("s1", dict.fromkeys(FINDINGS, Label.NEGATIVE), (Lesion(finding, side, zone, 0.8),), ("PA",), "")
        healthy = Study("s1", sick.labels, (), ("PA",), "")
        drawn = radiograph(np.random.default_rng(5), body, sick, "PA")
        plain = radiograph(np.random.default_rng(5), body, healthy, "PA")
        assert drawn.pixels.dtype == np.float32
        left, top, right, bottom = drawn.boxes[0][1]
        # Planting draws from the same stream as the film's grain, so only averages can be compared.
        inside = np.abs(drawn.pixels - plain.pixels)[top:bottom, left:right].mean()
        outside = np.abs(drawn.pixels - plain.pixels)[:, : drawn.pixels.shape[1] // 2].mean()
        assert inside > outside + 0.03, finding


def test_cached_is_written_once_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOMAINVL_CACHE", str(tmp_path))
    monkeypatch.setattr("domainvl.samples.cxr.PATIENTS", 6)
    folder = samples.cached("cxr")
    assert folder.parent == tmp_path / "samples"
    assert folder.name.startswith("cxr-")
    before = digests(folder)
    stamp = (folder / "studies.csv").stat().st_mtime_ns
    assert samples.cached("cxr") == folder
    assert (folder / "studies.csv").stat().st_mtime_ns == stamp

    (folder / table(folder)[0]["image"]).write_bytes(b"")
    (folder / "truth.json").unlink()
    assert samples.cached("cxr") == folder
    assert digests(folder) == before
    left_over = [path.name for path in folder.parent.iterdir() if path.is_dir() and path != folder]
    assert not left_over


def test_a_failed_write_leaves_no_half_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("DOMAINVL_CACHE", raising=False)

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("domainvl.samples.cxr.save_dicom", full_disk)
    with pytest.raises(OSError, match="no space"):
        samples.cached("cxr")
    assert not [path for path in (tmp_path / "domainvl" / "samples").iterdir() if path.is_dir()]


def _cached_with_six_patients(root: str) -> str:
    import os

    from domainvl.samples import cxr

    os.environ["DOMAINVL_CACHE"] = root
    cxr.PATIENTS = 6
    return str(samples.cached("cxr"))


def test_concurrent_callers_share_one_copy(tmp_path: Path) -> None:
    with ProcessPoolExecutor(max_workers=2) as pool:
        folders = set(pool.map(_cached_with_six_patients, [str(tmp_path)] * 4))
    assert len(folders) == 1
    assert len(table(Path(folders.pop()))) >= 6


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown domain 'mri'; known: ct, cxr, cxr-reports"):
        samples.write("mri", tmp_path / "new")
    with pytest.raises(ValueError, match="unknown domain"):
        samples.cached("mri")
    with pytest.raises(ValueError, match="patients must be at least 1, got 0"):
        samples.write("cxr", tmp_path / "new", patients=0)
    with pytest.raises(ValueError, match="seed must not be negative"):
        samples.write("cxr", tmp_path / "new", seed=-1)
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(FileExistsError, match="not empty"):
        samples.write("cxr", tmp_path)
    with pytest.raises(FileExistsError, match="is a file"):
        samples.write("cxr", tmp_path / "mine.txt")
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_importing_the_samples_imports_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "PIL", "pydicom", "rich", "transformers"}
    code = f"import sys, domainvl.samples; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
