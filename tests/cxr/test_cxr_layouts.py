"""Every public data set loads as it lies on disk."""

from collections import Counter

import cxr_layouts as layouts
import pytest

from data_modules import ChestXray14, ChestXrays, CheXpert, CheXpertPlus, MimicCxrJpg, OpenI, PadChest
from domainvl import samples
from domainvl.data import Label
from domainvl.data.loading import Loading
from domainvl.data.preset import Preset
from domainvl.data.texts.reports import split_report

P, N, U, B = Label.POSITIVE, Label.NEGATIVE, Label.UNCERTAIN, Label.BLANK
PRESET = Preset("toy", 16)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

# name, writer, layout, images, images per split (None: drawn by patient), patients
SETS = [
    ("mimic", layouts.mimic, MimicCxrJpg(), 7, {"train": 4, "validate": 1, "test": 2}, 6),
    ("mimic-negbio", layouts.mimic, MimicCxrJpg("negbio"), 7, {"train": 4, "validate": 1, "test": 2}, 6),
    ("chexpert", layouts.chexpert, CheXpert(), 88, None, 44),
    (
        "chexpert-test",
        lambda root: layouts.chexpert(root, test=True),
        CheXpert(),
        92,
        {"train": 80, "validate": 8, "test": 4},
        46,
    ),
    ("plus-png", layouts.chexpert_plus, CheXpertPlus(), 30, None, 30),
    ("plus-dicom", layouts.chexpert_plus, CheXpertPlus("report", "dicom"), 30, None, 30),
    ("openi", layouts.openi, OpenI(least=2), 22, None, 11),
    ("openi-tgz", lambda root: layouts.openi(root, packed=True), OpenI(least=2), 22, None, 11),
    ("nih", layouts.nih, ChestXray14(), 80, None, 40),
    ("nih-no-lists", lambda root: layouts.nih(root, lists=False), ChestXray14(), 80, None, 40),
    ("padchest", layouts.padchest, PadChest(least=2), 30, None, 20),
    ("padchest-flat", lambda root: layouts.padchest(root, flat=True), PadChest(least=2), 30, None, 20),
]


@pytest.mark.parametrize(
    ("write", "layout", "images", "splits", "patients"), [row[1:] for row in SETS], ids=[row[0] for row in SETS]
)
def test_layout_loads_unchanged(tmp_path, write, layout, images, splits, patients):
    data = ChestXrays(str(write(tmp_path)), layout=layout, preset=PRESET, loading=Loading(workers=2))
    manifest = data.manifest
    assert len(manifest.records) == images
    assert len({record.patient for record in manifest.records}) == patients
    assert len({record.id for record in manifest.records}) == images
    assert sum(manifest.counts().values()) == images
    if splits is not None:
        assert manifest.counts() == splits
    for stage in ("fit", "test"):
        data.setup(stage)
    seen = [
        name for split in ("train", "validate", "test") if split in data._sets for name in data._sets[split].records
    ]
    assert len(seen) == images
    assert not len(data.rejects)
    assert "No Finding" not in data.classes


def manifest(write, layout, root, **arguments):
    return ChestXrays(str(write(root)), layout=layout, preset=PRESET, **arguments).manifest


def by_id(manifest):
    return {record.id: record for record in manifest.records}


def test_mimic_joins_labels_on_the_study(tmp_path):
    records = by_id(manifest(layouts.mimic, MimicCxrJpg(), tmp_path, classes=sorted(layouts.CHEXPERT)))
    first, third = records["00000000-aaaa"], records["00000002-aaaa"]
    assert first.path == "files/p10/p10000032/s50414267/00000000-aaaa.jpg"
    assert (first.labels[0], first.labels[12], first.labels[13]) == (P, U, B)
    assert third.labels[:3] == (N, N, P)
    assert (first.view, records["00000001-aaaa"].view) == ("LATERAL", "PA")
    assert set(records["00000003-aaaa"].labels) == {B}, "a study without a label row"
    assert (first.findings, first.impression) == ("Clear lungs.", "")
    assert (tmp_path / first.report).read_text().startswith(" FINAL REPORT")


def test_chexpert_root_is_stripped_and_a_validation_split_is_carved(tmp_path):
    layouts.chexpert(tmp_path / "CheXpert-v1.0-small")
    both = [ChestXrays(str(root), layout=CheXpert()).manifest for root in (tmp_path, tmp_path / "CheXpert-v1.0-small")]
    assert both[0].records == both[1].records
    assert both[0].counts()["test"] == 8
    assert 2 <= both[0].counts()["validate"] <= 20
    assert {record.view for record in both[0].records} == {"AP", "lateral"}
    assert both[0].records[0].path == "train/patient00001/study1/view1_frontal.jpg"


def test_chexpert_plus_has_text_and_blank_labels(tmp_path):
    record = manifest(layouts.chexpert_plus, CheXpertPlus(), tmp_path, classes=list(layouts.CHEXPERT)).records[5]
    assert (record.findings, record.impression, record.view) == ("Clear lungs.", "1. No edema.", "AP")
    assert Counter(record.labels) == {P: 1, N: 1, B: 12}
    assert record.path.startswith("PNG/train/patient00005")


def test_openi_reads_headings_and_sections(tmp_path):
    with pytest.warns(UserWarning, match="no patient is known"):
        found = manifest(layouts.openi, OpenI(least=2), tmp_path)
    records = by_id(found)
    assert found.classes == ("Cardiomegaly", "Lung")
    assert records["CXR1_IM-0001-1001"].labels == (P, P)
    assert records["CXR3_IM-0003-1001"].labels == (N, N)
    assert records["CXR7_IM-0007-1001"].labels == (B, B)
    assert records["CXR1_IM-0001-1001"].findings == "The are clear & calm."
    assert (records["CXR1_IM-0001-1001"].impression, records["CXR2_IM-0002-1001"].impression) == ("", "Fine.")


def test_nih_lists_are_kept(tmp_path):
    found = manifest(layouts.nih, ChestXray14(), tmp_path)
    assert 2 <= found.counts()["validate"] <= 12, "a tenth of 30 patients with two images each"
    assert {record.patient for record in found.records if record.split == "test"} == {str(n) for n in range(31, 41)}
    assert by_id(found)["00000001_000.png"].path == "images_002/images/00000001_000.png"
    hernia = by_id(found)["00000001_000.png"].labels
    assert [name for name, label in zip(found.classes, hernia, strict=True) if label is P] == [
        "Pleural_Thickening",
        "Hernia",
    ]


def test_nih_unknown_finding_and_unlisted_image_are_rejected(tmp_path):
    root = layouts.nih(tmp_path)
    path = root / "Data_Entry_2017_v2020.csv"
    path.write_text(path.read_text().replace("Mass", "Masss", 1) + "00000099_000.png,Mass,0,99,5,M,PA,1,1,1,1\n")
    data = ChestXrays(str(root), layout=ChestXray14(), loading=Loading(reject_share=0.1))
    assert len(data.manifest.records) == 79
    assert [one.reason for one in data.rejects] == [
        "Finding Labels: 'Masss' is none of the 14 findings",
        "it is in neither train_val_list.txt nor test_list.txt",
    ]


def test_padchest_leaves_excluded_images_out(tmp_path):
    with pytest.warns(UserWarning, match="10 images that the authors marked 'exclude'"):
        found = manifest(layouts.padchest, PadChest(least=2), tmp_path)
    assert found.classes == ("cardiomegaly", "pleural effusion")
    assert Counter(record.labels for record in found.records) == {(N, N): 10, (P, P): 10, (P, N): 10}
    by_hand = manifest(lambda root: root, PadChest(least=2, by_hand=True), tmp_path)
    assert len(by_hand.records) == 20


@pytest.mark.parametrize(
    "layout",
    [MimicCxrJpg(), CheXpert(), CheXpertPlus(), OpenI(), ChestXray14(), PadChest()],
    ids=lambda one: type(one).__name__,
)
def test_a_wrong_root_says_what_is_missing(tmp_path, layout):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(FileNotFoundError, match=r"holds holiday\.jpg"):
        _ = ChestXrays(str(tmp_path), layout=layout).manifest


def test_views_are_chosen_by_name_or_group(tmp_path):
    root = str(layouts.chexpert(tmp_path))
    counts = [
        len(ChestXrays(root, layout=CheXpert(), views=views).manifest.records)
        for views in (None, ["frontal"], ["AP"], ["lateral"])
    ]
    assert counts == [88, 44, 44, 44]
    with pytest.raises(ValueError, match=r"no image has view 'APP'; did you mean 'AP'\? Views: AP, lateral"):
        _ = ChestXrays(root, layout=CheXpert(), views=["APP"]).manifest


def test_the_licence_is_told_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("domainvl.data.preparing._LICENCES_SHOWN", set())
    root = str(layouts.chexpert(tmp_path))
    for _ in range(2):
        _ = ChestXrays(root, layout=CheXpert()).manifest
    assert capsys.readouterr().err.count("Research Use Agreement") == 1


def test_samples_pass_through_the_same_readers(tmp_path, monkeypatch):
    folder = samples.write("cxr", tmp_path / "cxr", patients=24)
    monkeypatch.setattr(samples, "cached", lambda domain: folder)
    data = ChestXrays(preset=PRESET, shots=1)
    for stage in ("fit", "validate", "test"):
        data.setup(stage)
    assert "No Finding" not in data.classes
    assert {record.path.rpartition(".")[2] for record in data.manifest.records} == {"jpg", "dcm"}
    assert not len(data.rejects)
    assert all(split_report((folder / one.report).read_text()).text for one in data.manifest.records)
