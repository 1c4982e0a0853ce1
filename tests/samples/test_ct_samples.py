"""The procedural CT scans: what is promised of the files on disk, read by libraries that did not write them."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data_modules import CTVolumes
from data_modules.readers.volume import read_volume
from domainvl import samples
from domainvl.data.texts.reports import split_report
from domainvl.data.volumes.volume import LPS_TO_RAS, orientation_of
from domainvl.samples.ct.anatomy import ORGAN_STRUCTURES, STRUCTURES, draw_body
from domainvl.samples.ct.cases import FINDINGS, ORGAN_OF, ORGANS, Label, Lesion, Study
from domainvl.samples.ct.planting import scan
from domainvl.samples.ct.solids import Grid

NAMES_IN_REPORTS = {
    "Lung nodule": r"nodule",
    "Consolidation": r"consolidation",
    "Emphysema": r"emphysema",
    "Pleural effusion": r"pleural effusion",
    "Cardiomegaly": r"cardiomegaly|enlargement of the heart|heart size",
    "Pericardial effusion": r"pericardial effusion",
    "Arterial wall calcification": r"calcification",
    "Liver lesion": r"liver lesion",
    "Splenomegaly": r"splenomegaly|enlargement of the spleen|spleen is of normal size",
    "Kidney stone": r"kidney stone|stone measuring",
    "Ascites": r"ascites",
}
DENIALS = r"\b(no|without|normal)\b"
DOUBTS = r"possible|excluded"


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "studies.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def truth_of(folder: Path) -> dict[str, dict[str, list[dict]]]:
    content = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    return {name: drawn["findings"] for name, drawn in content.items()}


def sentences_on(finding: str, text: str) -> list[str]:
    sentences = re.split(r"(?<=[.])\s+(?!\d)", text.lower())
    return [sentence for sentence in sentences if re.search(NAMES_IN_REPORTS[finding], sentence)]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.write("ct", tmp_path_factory.mktemp("small") / "ct", seed=3, patients=30)


@pytest.fixture(scope="module")
def volumes(small):
    """Every volume and its label map, as the readers read them."""
    return {
        row["image"]: (read_volume(small / row["image"]), read_volume(small / row["organs"])) for row in table(small)
    }


def test_same_seed_gives_the_same_bytes(tmp_path):
    first = samples.write("ct", tmp_path / "a", seed=7, patients=4)
    second = samples.write("ct", tmp_path / "b", seed=7, patients=4)
    other = samples.write("ct", tmp_path / "c", seed=8, patients=4)
    assert digests(first) == digests(second)
    assert digests(first) != digests(other)


def test_table_files_and_splits(small):
    rows = table(small)
    columns = ["image", "patient", "study", "view", "split", "No Finding", *FINDINGS, "report", *ORGANS, "organs"]
    assert list(rows[0]) == columns
    assert {row[finding] for row in rows for finding in FINDINGS} == {"1", "0", "-1", ""}
    splits = defaultdict(set)
    for row in rows:
        splits[row["patient"]].add(row["split"])
        normal = all(row[finding] in ("0", "") for finding in FINDINGS)
        assert row["No Finding"] == ("1" if normal else "")
    assert all(len(found) == 1 for found in splits.values())
    assert {split for found in splits.values() for split in found} == {"train", "validate", "test"}
    named = {row[column] for row in rows for column in ("image", "organs", "report")}
    on_disk = {
        path.relative_to(small).as_posix() if path.suffix != ".dcm" else path.parent.relative_to(small).as_posix()
        for part in ("scans", "organs", "reports")
        for path in (small / part).rglob("*")
        if path.is_file()
    }
    assert on_disk == named
    with (small / "organs.csv").open(encoding="utf-8", newline="") as file:
        labels = [(row["organ"], int(row["label"]), row["structure"]) for row in csv.DictReader(file)]
    assert labels == [(organ, STRUCTURES[name], name) for organ in ORGANS for name in ORGAN_STRUCTURES[organ]]


def test_geometry_is_as_varied_as_in_an_archive(volumes):
    codes, oblique, series = set(), 0, 0
    for name, (volume, _) in volumes.items():
        codes.add(orientation_of(volume.affine))
        off = np.abs(volume.affine[:3, :3]) > 1e-3
        oblique += bool(off.sum() > 3)
        series += not name.endswith(".nii.gz")
        steps = sorted(volume.spacing)
        assert steps[0] == pytest.approx(steps[1])
        assert steps[2] > 1.04 * steps[1]
    assert len(codes) >= 5
    assert 0 < oblique < len(volumes) / 2
    assert 0 < series < len(volumes) / 3


def test_values_are_hounsfield_units(volumes):
    expected = {
        "lungs": (-900, -600),
        "liver": (30, 125),
        "spleen": (40, 130),
        "aorta": (30, 400),
        "kidneys": (20, 260),
    }
    for volume, labels in volumes.values():
        assert volume.voxels.dtype == np.int16
        assert volume.voxels.shape == labels.voxels.shape
        assert volume.voxels[:, 0, 0].min() == -1000
        assert volume.voxels.max() > 350
        for organ, (low, high) in expected.items():
            inside = np.isin(labels.voxels, [STRUCTURES[name] for name in ORGAN_STRUCTURES[organ]])
            assert inside.any(), organ
            assert low < np.median(volume.voxels[inside]) < high, organ


def test_simpleitk_sees_the_same_volume(small, volumes):
    kinds = set()
    for row in table(small):
        path = small / row["image"]
        if path.is_dir():
            reader = sitk.ImageSeriesReader()
            names = [reader.GetGDCMSeriesFileNames(str(path), one) for one in reader.GetGDCMSeriesIDs(str(path))]
            reader.SetFileNames(max(names, key=len))
            image = reader.Execute()
        else:
            image = sitk.ReadImage(str(path))
        affine = np.eye(4)
        affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
        affine[:3, 3] = image.GetOrigin()
        volume, labels = volumes[row["image"]]
        np.testing.assert_allclose(LPS_TO_RAS @ affine, volume.affine, atol=2e-3)
        np.testing.assert_allclose(labels.affine, volume.affine, atol=2e-3)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volume.voxels)
        kinds.add((path.is_dir(), image.GetPixelIDTypeAsString()))
    assert len(kinds) >= 2


def test_series_have_a_localizer_and_made_up_people(small):
    import pydicom

    (folder, patient) = next(
        (small / row["image"], row["patient"]) for row in table(small) if not row["image"].endswith(".nii.gz")
    )
    slices = [pydicom.dcmread(path) for path in sorted(folder.glob("0*.dcm"))]
    scout = pydicom.dcmread(folder / "scout.dcm")
    assert scout.ImageType[2] == "LOCALIZER"
    assert scout.SeriesInstanceUID != slices[0].SeriesInstanceUID
    assert scout.StudyInstanceUID == slices[0].StudyInstanceUID
    heights = [float(one.ImagePositionPatient[2]) for one in slices]
    assert heights != sorted(heights), "names should not give the order away"
    assert {one.PatientID for one in slices} == {patient}
    assert {str(one.PatientName) for one in slices} == {f"Phantom^{patient}"}
    assert len({one.SOPInstanceUID for one in slices}) == len(slices)


def millimetres(volume, count: int, rng: np.random.Generator) -> np.ndarray:
    """Places inside a volume, `[4, count]`."""
    places = rng.uniform(0.2, 0.8, (3, count)) * (np.array(volume.voxels.shape[::-1])[:, None] - 1)
    return volume.affine @ np.concatenate([places, np.ones((1, count))])


def nearest(volume, places: np.ndarray) -> np.ndarray:
    columns, rows, slices = np.rint(np.linalg.inv(volume.affine) @ places)[:3].astype(int)
    return volume.voxels[slices, rows, columns].astype(float)


def test_reconstructions_show_the_same_body_in_the_same_place(small, volumes):
    groups = defaultdict(list)
    for row in table(small):
        groups[row["patient"], row["study"]].append(row)
    twice = [rows for rows in groups.values() if len(rows) > 1]
    assert twice
    truth = truth_of(small)
    for first, second in twice:
        assert {first["view"], second["view"]} == {"soft", "sharp"}
        same = [name for name in first if name not in ("image", "view", "organs")]
        assert all(first[name] == second[name] for name in same)
        one, other = volumes[first["image"]][0], volumes[second["image"]][0]
        places = millimetres(one, 3000, np.random.default_rng(0))
        assert np.median(np.abs(nearest(one, places) - nearest(other, places))) < 45
        assert truth[first["image"]].keys() == truth[second["image"]].keys()
        for finding, lesions in truth[first["image"]].items():
            for here, there in zip(lesions, truth[second["image"]][finding], strict=True):
                np.testing.assert_allclose(here["box"], there["box"], atol=16)


def test_boxes_lie_in_the_organ_and_on_the_side_that_truth_names(small, volumes):
    checked = defaultdict(int)
    for name, findings in truth_of(small).items():
        volume, labels = volumes[name]
        back = np.linalg.inv(volume.affine)
        for finding, lesions in findings.items():
            for lesion in lesions:
                assert lesion["organ"] == ORGAN_OF[finding]
                low, high = np.array(lesion["box"])
                assert (low < high).all()
                axis = np.linspace(0, 1, 9)
                cube = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 3) * (high - low) + low
                columns, rows, slices = np.rint(back @ np.c_[cube, np.ones(len(cube))].T)[:3].astype(int)
                depth, height, width = labels.voxels.shape
                inside = (slices >= 0) & (slices < depth) & (rows >= 0) & (rows < height)
                inside &= (columns >= 0) & (columns < width)
                assert inside.mean() > 0.7
                found = labels.voxels[slices[inside], rows[inside], columns[inside]]
                if lesion["organ"]:
                    own = [STRUCTURES[part] for part in ORGAN_STRUCTURES[lesion["organ"]]]
                    # Plaques are all over the aorta, which is far from a box.
                    assert np.isin(found, own).mean() > (0.05 if lesion["organ"] == "aorta" else 0.3), (name, finding)
                if lesion["side"]:
                    right, left = (
                        [STRUCTURES[part] for part in STRUCTURES if part.startswith(f"lung_lower_lobe_{side}")]
                        for side in ("right", "left")
                    )
                    sides = [places_of(labels, label)[0].mean() for label in (right, left)]
                    middle = (low[0] + high[0]) / 2
                    assert (middle > sum(sides) / 2) == (lesion["side"] == "right")
                checked[finding] += 1
    assert set(checked) == set(FINDINGS)


def places_of(labels, numbers: list[int]) -> np.ndarray:
    slices, rows, columns = np.nonzero(np.isin(labels.voxels, numbers))
    return (labels.affine @ np.stack([columns, rows, slices, np.ones(len(slices))]))[:3]


def test_reports_have_sections_and_agree_with_the_labels(small):
    for row in table(small):
        text = (small / row["report"]).read_text(encoding="utf-8")
        report = split_report(text)
        assert list(report.sections) == [
            "examination", "indication", "technique", "comparison", "findings", "impression",
        ]  # fmt: skip
        for finding in FINDINGS:
            said = sentences_on(finding, report.findings)
            if row[finding] == "":
                assert not said, (row["report"], finding, said)
                continue
            assert said, (row["report"], finding)
            denied = any(re.search(DENIALS, sentence) for sentence in said)
            doubted = any(re.search(DOUBTS, sentence) for sentence in said)
            assert (denied, doubted) == {"1": (False, False), "0": (True, False), "-1": (False, True)}[row[finding]]
            short = sentences_on(finding, report.impression)
            assert bool(short) == (row[finding] in ("1", "-1"))


def test_every_organ_has_a_text_of_its_own(small):
    healthy = defaultdict(set)
    for row in table(small):
        findings = split_report((small / row["report"]).read_text(encoding="utf-8")).findings
        for organ in ORGANS:
            own = [finding for finding in FINDINGS if ORGAN_OF[finding] == organ]
            raised = [finding for finding in own if row[finding] in ("1", "-1")]
            others = [finding for finding in FINDINGS if finding not in raised]
            assert all(sentences_on(finding, row[organ]) for finding in raised)
            assert not any(sentences_on(finding, row[organ]) for finding in others)
            if raised:
                assert row[organ] in findings or all(part in findings for part in row[organ].split(". "))
            else:
                healthy[organ].add(row[organ])
    assert all(len(texts) == 1 for texts in healthy.values())


def a_study(*lesions: Lesion) -> Study:
    return Study("s1", dict.fromkeys(FINDINGS, Label.NEGATIVE), lesions, True, "")


def a_grid(shape=(48, 80, 92), spacing=(6.5, 4.0, 4.0)) -> Grid:
    affine = np.diag([*spacing[::-1], 1.0])
    affine[:3, 3] = -(np.array(spacing[::-1]) * (np.array(shape[::-1]) - 1)) / 2
    return Grid(affine, shape)


@pytest.mark.parametrize("finding", FINDINGS)
@pytest.mark.parametrize("severity", [0.2, 0.9])
def test_a_finding_changes_what_lies_in_its_box_and_nothing_else(finding, severity):
    body = draw_body(np.random.default_rng(1))
    grid = a_grid()
    lobe = "upper" if finding in ("Lung nodule", "Consolidation") else ""
    side = "left" if lobe or finding in ("Pleural effusion", "Kidney stone") else ""
    sick = scan(np.random.default_rng(2), body, a_study(Lesion(finding, side, lobe, severity)), grid)
    plain = scan(np.random.default_rng(2), body, a_study(), grid)
    ((_, (low, high)),) = sick.boxes
    inside = np.ones(grid.shape, bool)
    for at, least, most in zip((grid.x, grid.y, grid.z), low, high, strict=True):
        inside &= (at >= least) & (at <= most)
    change = np.abs(sick.hounsfield - plain.hounsfield)
    # Edges fade over a voxel, so a little lies outside of the box.
    assert (change > 150)[~inside].sum() <= 0.15 * (change > 40).sum()
    assert change[inside].mean() > 10 * change[~inside].mean()
    assert (change > 40).sum() > 4


def test_what_lies_in_an_emphysematous_lung_stays():
    body = draw_body(np.random.default_rng(1))
    nodule = Lesion("Lung nodule", "right", "upper", 0.8)
    drawn = scan(np.random.default_rng(2), body, a_study(nodule, Lesion("Emphysema", "", "", 1.0)), a_grid())
    (_, (low, high)), (_, (least, most)) = drawn.boxes
    grid = a_grid()
    centre = np.add(low, high) / 2
    near = np.sqrt(sum((at - c) ** 2 for at, c in zip((grid.x, grid.y, grid.z), centre, strict=True))) < 8
    assert drawn.hounsfield[near].min() > 0
    assert (np.array(least) < low).all()
    assert (np.array(most) > high).all()


def test_a_turned_grid_shows_the_same_body():
    body, study = draw_body(np.random.default_rng(1)), a_study(Lesion("Consolidation", "right", "lower", 0.7))
    straight, turned = a_grid(), a_grid()
    cosine, sine = np.cos(0.2), np.sin(0.2)
    affine = turned.affine.copy()
    affine[:3] = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]) @ affine[:3]
    turned = Grid(affine, turned.shape)
    first, second = (scan(np.random.default_rng(2), body, study, grid) for grid in (straight, turned))
    places = np.random.default_rng(0).uniform([-120, -80, -90], [120, 80, 90], (4000, 3))
    values = []
    for grid, drawn in ((straight, first), (turned, second)):
        columns, rows, slices = np.rint(np.linalg.inv(grid.affine) @ np.c_[places, np.ones(4000)].T)[:3].astype(int)
        values.append(drawn.hounsfield[slices, rows, columns])
    assert np.median(np.abs(values[0] - values[1])) < 5
    np.testing.assert_allclose(first.boxes[0][1], second.boxes[0][1], atol=12)


def test_the_data_module_reads_the_set(small, monkeypatch):
    monkeypatch.setattr("domainvl.samples.cached", lambda domain: {"ct": small}[domain])
    data = CTVolumes()
    manifest = data.manifest
    rows = {row["image"]: row for row in table(small)}
    assert list(data.classes) == list(FINDINGS)
    assert manifest.multilabel
    assert not manifest.rejected
    assert {record.path for record in manifest.records} == set(rows)
    assert {record.view for record in manifest.records} == {"soft", "sharp"}
    for record in manifest.records:
        assert dict(record.texts) == {organ: rows[record.path][organ] for organ in ORGANS}
    assert list(CTVolumes(str(small)).classes) == list(FINDINGS)
