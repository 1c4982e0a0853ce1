"""Every public CT data set loads as it lies on disk, each volume in its right place and scale."""

import csv

import ct_layouts as layouts
import numpy as np
import pytest
import torch

from data_modules import CtRate, CTVolumes, ImageTable, MerlinCT, Preparation, RadChestCT
from data_modules.readers.spreadsheet import Spreadsheet
from data_modules.readers.volume_folders import find_volumes
from domainvl.data import Label
from domainvl.data.loading import Loading
from domainvl.data.volumes.preset import VolumePreset

P, N, B = Label.POSITIVE, Label.NEGATIVE, Label.BLANK
PRESET = VolumePreset("toy", (16.0, 16.0, 20.0), (12, 14, 16), axes="SAR")
# RAD-ChestCT is 0.8 mm whatever the file, so its miniature is a body of 2 cm.
SMALL = VolumePreset("toy", (1.6, 1.6, 1.6), (12, 14, 16), axes="SAR")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

# name, writer, layout, volumes per split (None: drawn by patient), patients
SETS = [
    ("ct-rate-v2", layouts.ct_rate, CtRate(), None, 12),
    ("ct-rate-v1", lambda root: layouts.ct_rate(root, "v1"), CtRate("v1"), None, 12),
    ("ct-rate-first", layouts.ct_rate, CtRate(reconstructions="first"), None, 12),
    ("rad-chest", layouts.rad_chest, RadChestCT(), {"train": 3, "validate": 3, "test": 3}, 9),
    ("merlin", layouts.merlin, MerlinCT(), {"train": 3, "validate": 3, "test": 3}, 9),
    ("merlin-nii", lambda root: layouts.merlin(root, ".nii"), MerlinCT(), {"train": 3, "validate": 3, "test": 3}, 9),
    ("generic", layouts.generic, ImageTable(), {"train": 12, "validate": 6, "test": 6}, 24),
    ("generic-default", layouts.generic, None, {"train": 12, "validate": 6, "test": 6}, 24),
    ("folders", layouts.folders, None, None, 20),
]


def module(root, layout=None, **arguments):
    made = CTVolumes(
        str(root),
        layout=layout,
        preset=SMALL if isinstance(layout, RadChestCT) else PRESET,
        preparation=arguments.pop("preparation", Preparation(folder=str(root.parent / "store"))),
        loading=arguments.pop("loading", Loading(2, 3, workers=1, reject_share=0)),
        **arguments,
    )
    made.rejects.path = root.parent / "rejects.csv"
    return made


@pytest.mark.parametrize(
    ("write", "layout", "splits", "patients"), [row[1:] for row in SETS], ids=[row[0] for row in SETS]
)
def test_layout_loads_unchanged(tmp_path, write, layout, splits, patients):
    data = module(write(tmp_path / "data"), layout)
    manifest = data.manifest
    assert len({record.patient for record in manifest.records}) == patients
    assert len({record.id for record in manifest.records}) == len(manifest.records)
    if splits is not None:
        assert manifest.counts() == splits
    seen = 0
    for stage in ("fit", "test"):
        data.setup(stage)
    for split in ("train", "validate", "test"):
        seen += len(data._sets[split]) if split in data._sets else 0
    assert seen == len(manifest.records)
    assert not len(data.rejects)
    if "folders" not in str(write):
        assert upright(data._sets["test"].pixels)


def upright(volumes):
    """The phantom's bright spot is on the right, near the head, as `axes` SAR of the preset wants it."""
    for volume in volumes.numpy():
        spot = np.argwhere(volume > 250)
        d, h, w = spot.mean(axis=0)
        if not (len(spot) and d > 7 and w > 10 and 4 < h < 10):
            return False
    return True


def test_all_versions_of_ct_rate_give_the_same_voxels(tmp_path):
    found = {}
    for version in ("v1", "v2"):
        data = module(layouts.ct_rate(tmp_path / version, version), CtRate(version))
        data.setup("test")
        found[version] = data._sets["test"].pixels
    assert torch.equal(found["v1"], found["v2"])


def test_ct_rate_tables(tmp_path):
    found = module(layouts.ct_rate(tmp_path / "data"), CtRate()).manifest
    assert found.classes == layouts.CT_RATE
    record = next(one for one in found.records if one.id == "train_3_a_2.nii.gz")
    assert record.path == "dataset/train_fixed/train_3/train_3_a/train_3_a_2.nii.gz"
    assert (record.patient, record.study, record.view) == ("train_3", "train_3_a", "2")
    assert record.labels == (P, N, P, N)
    assert (record.findings, record.impression) == ("Nodule 3.", "")
    assert all(one.split == "test" for one in found.records if one.id.startswith("valid"))
    assert "BY-NC-SA" in found.licence


def test_ct_rate_v2_with_the_fix_of_v1_is_refused(tmp_path):
    """Fixed files laid where v1 is looked for: Hounsfield units would be rescaled again."""
    root = layouts.ct_rate(tmp_path / "data")
    for folder in ("train", "valid"):
        (root / "dataset" / f"{folder}_fixed").rename(root / "dataset" / folder)
    data = module(root, CtRate("v1"), loading=Loading(workers=1, reject_share=0.9))
    with pytest.raises(ValueError, match="none of the 12 test volumes can be used"):
        data.setup("test")
    data.rejects.flush()
    with (tmp_path / "rejects.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert "applied to Hounsfield units again" in rows[0]["reason"]
    assert rows[0]["path"] == "dataset/valid/valid_1/valid_1_a/valid_1_a_1.nii.gz"


def test_ct_rate_names_the_version_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither train nor valid lies in .* and the version"):
        module(layouts.ct_rate(tmp_path / "data"), CtRate("v1")).manifest  # noqa: B018


def test_ct_rate_v1_rejects_a_volume_without_geometry(tmp_path):
    root = layouts.ct_rate(tmp_path / "data", "v1")
    path = root / "dataset" / "metadata" / "validation_metadata.csv"
    text = path.read_text().splitlines()
    path.write_text("\n".join([text[0], text[1].replace('"[8.0, 8.0]"', ""), *text[3:]]))
    data = module(root, CtRate("v1"), loading=Loading(reject_share=0.5))
    reasons = {reject.path.rsplit("/", 1)[1]: reject.reason for reject in (data.manifest, data.rejects)[1]}
    assert reasons == {
        "valid_1_a_1.nii.gz": "validation_metadata.csv row 2 gives no geometry, and the file has none",
        "valid_1_a_2.nii.gz": "the metadata table has no row for it, and the file has no geometry",
    }


def test_rad_chest_labels_are_joined_over_places(tmp_path):
    found = module(layouts.rad_chest(tmp_path / "data"), RadChestCT()).manifest
    assert found.classes == ("nodule", "mass")
    labels = {record.id: record.labels for record in found.records}
    assert labels["trn00001"] == (P, N)
    assert labels["trn00000"] == (N, N)
    assert len(labels) == 9, "volumes that were not published are left out"


def test_merlin_minus_one_is_not_uncertain(tmp_path):
    found = module(layouts.merlin(tmp_path / "data"), MerlinCT()).manifest
    assert {record.id: record.labels[0] for record in found.records}["AC0002"] is B
    assert found.records[4].findings == "Lower thorax: clear & dry. Liver: cyst 4."
    with pytest.raises(ValueError, match=r"no column 'Text'\. Its columns are: study id, Findings, Split, Fewshot"):
        module(tmp_path / "data", MerlinCT(report_column="Text")).manifest  # noqa: B018


@pytest.mark.parametrize("shared", [True, False])
def test_a_workbook_reads_like_a_table(tmp_path, shared):
    rows = [["name", "text", "end"], ["a", "", "x & <y>"], ["", "long text", ""], ["b", "c", "d"]]
    sheet = Spreadsheet(layouts.workbook(tmp_path / "a.xlsx", rows, shared=shared))
    assert sheet.columns == ["name", "text", "end"]
    assert list(sheet.rows("end", "name")) == [(2, ["x & <y>", "a"]), (3, ["", ""]), (4, ["d", "b"])]


def test_a_workbook_that_is_none(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"name,text\n")
    with pytest.raises(ValueError, match=r"a\.xlsx is no whole Excel workbook"):
        Spreadsheet(tmp_path / "a.xlsx")


def test_volumes_are_found_in_folders(tmp_path):
    layouts.folders(tmp_path / "data")
    found = [path.relative_to(tmp_path / "data").as_posix() for path in find_volumes(tmp_path / "data")]
    assert found[:4] == ["Nodule/00", "Nodule/01.mha", "Nodule/02.nii.gz", "Nodule/03"]
    assert len(found) == 20
