"""Public data sets as they are downloaded, in miniature."""

import json

import numpy as np
import pytest
from PIL import Image
from scene_files import write_scene

from data_modules import (
    Aid,
    BigEarthNetV1,
    BigEarthNetV2,
    EuroSat,
    EuroSatMS,
    Fmow,
    PatternNet,
    Resisc45,
    Satellite,
    UcMerced,
)
from domainvl.data.loading import Loading
from domainvl.data.preset import Preset

PRESET = Preset("toy", 16)
LOADING = Loading(workers=0)


def picture(path, size=(20, 20), colour=(90, 120, 60)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def bands13(path, value=1500):
    write_scene(path, np.full((13, 64, 64), value, np.uint16) + np.arange(13, dtype=np.uint16)[:, None, None])


def listed(root, pattern, names):
    for number, split in enumerate(("train", "val", "test")):
        (root / pattern.format(split)).write_text("\n".join(names[number::3]) + "\n")


TREES = [
    (EuroSat(), "EuroSAT_RGB/{0}/{0}_{1}.jpg", ("SeaLake", "AnnualCrop"), {"sea or lake", "annual crop land"}),
    (EuroSat(), "2750/{0}/{0}_{1}.jpg", ("PermanentCrop", "Forest"), {"permanent crop land", "forest"}),
    (Resisc45(), "NWPU-RESISC45/{0}/{0}_{1:03d}.jpg", ("basketball_court", "lake"), {"basketball court", "lake"}),
    (Aid(), "AID/{0}/{0}_{1}.jpg", ("BareLand", "Airport"), {"bare land", "airport"}),
    (PatternNet(), "PatternNet/images/{0}/{0}{1:03d}.jpg", ("oil_gas_field", "beach"), {"oil gas field", "beach"}),
    (
        UcMerced(),
        "UCMerced_LandUse/Images/{0}/{0}{1:02d}.tif",
        ("baseballdiamond", "forest"),
        {"baseball diamond", "forest"},
    ),
]


@pytest.mark.parametrize(
    ("layout", "pattern", "folders", "classes"), TREES, ids=[type(row[0]).__name__ for row in TREES]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_class_folders_as_published(tmp_path, layout, pattern, folders, classes):
    for folder in folders:
        for n in range(20):
            picture(tmp_path / pattern.format(folder, n))
    (tmp_path / pattern.format(folders[0], 0)).parent.joinpath("Thumbs.db").write_text("no picture")
    data = Satellite(str(tmp_path), layout=layout, preset=PRESET, loading=LOADING)
    assert set(data.classes) == classes
    assert sum(len(data.manifest.positions(split)) for split in ("train", "validate", "test")) == 40
    data.setup("test")
    assert len(data.rejects) == 0


def test_published_lists_are_the_split_and_name_files_by_their_stem(tmp_path):
    names = [f"{kind}_{n}" for kind in ("SeaLake", "Forest") for n in range(9)]
    for name in names:
        bands13(tmp_path / EuroSatMS.tops[0] / name.split("_")[0] / f"{name}.tif")
    listed(tmp_path, "eurosat-spatial-{}.txt", [f"{name}.jpg" for name in names])
    data = Satellite(str(tmp_path), layout=EuroSatMS(), bands=["nir", "red", "B8A"], preset=PRESET, loading=LOADING)
    assert data.manifest.counts() == {"train": 6, "validate": 6, "test": 6}
    assert data.bands == ("B08", "B04", "B8A")
    data.setup("test")
    pixels = data.sets["test"].pixels
    # Bands 8, 4 and, being last in these files, 13 (offset 7, 3 and 12), white at 5000, 3000 and 5000.
    wanted = np.rint(np.array([1507 / 5000, 1503 / 3000, 1512 / 5000]) * 255)
    assert pixels.float().mean(dim=(0, 2, 3)).tolist() == wanted.tolist()
    (tmp_path / "eurosat-spatial-val.txt").write_text(f"{names[0]}.jpg\n")
    with pytest.raises(ValueError, match="listed in two splits"):
        EuroSatMS().read(tmp_path)
    (tmp_path / "eurosat-spatial-val.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"eurosat-spatial-val\.txt is missing"):
        EuroSatMS().read(tmp_path)


def patch(folder, name, value):
    for band, size in {"B02": 120, "B03": 120, "B04": 120, "B05": 60}.items():
        write_scene(folder / f"{name}_{band}.tif", np.full((1, size, size), value, np.uint16), block=16)


def big_earth_v1(root):
    labels = (["Pastures", "Airports"], ["Rice fields", "Sea and ocean"], ["Airports"], ["Peatbogs"])
    for n in range(8):
        name = f"S2A_MSIL2A_20170613T101031_{n}_48"
        patch(root / "BigEarthNet-v1.0" / name, name, 300 * (n + 1))
        about = {"labels": labels[n % 4], "acquisition_date": "2017-06-13 10:10:31"}
        (root / "BigEarthNet-v1.0" / name / f"{name}_labels_metadata.json").write_text(json.dumps(about))
    for split, chosen in (("train", (0, 1, 2)), ("val", (3,)), ("test", (4, 5, 6, 7))):
        rows = [f"S2A_MSIL2A_20170613T101031_{n}_48" for n in chosen]
        (root / f"{split}.csv").write_text("\n".join(rows) + "\n")


def big_earth_v2(root):
    labels = ("Pastures", "Arable land;Marine waters", "Pastures;Urban fabric", "Inland wetlands")
    lines = ["patch_id,split,labels"]
    for n in range(8):
        tile = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"
        name = f"{tile}_{n:02d}_48"
        patch(root / "BigEarthNet-S2" / tile / name, name, 300 * (n + 1))
        split = ("train", "validation", "test")[max(0, n - 5) if n < 7 else 2]
        quoted = labels[n % 4]
        lines.append(f'{name},{split},"{quoted}"')
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("layout", "write"), [(BigEarthNetV1(), big_earth_v1), (BigEarthNetV2(), big_earth_v2)], ids=["v1", "v2"]
)
def test_bands_in_files_of_their_own(tmp_path, layout, write):
    write(tmp_path)
    data = Satellite(str(tmp_path), layout=layout, bands=["B05", "B03", "B02"], preset=PRESET, loading=LOADING)
    manifest = data.manifest
    assert len(manifest.classes) == 19
    assert manifest.multilabel
    assert manifest.records[0].view[:4] == "2017"
    # A patch whose only class is none of the 19 is left out of v1.
    assert len(manifest.records) == (6 if isinstance(layout, BigEarthNetV1) else 8)
    second = next(record for record in manifest.records if "_1_48" in record.id or "_01_48" in record.id)
    there = {name for name, label in zip(manifest.classes, second.labels, strict=True) if label.value == "positive"}
    assert there == {"Arable land", "Marine waters"}
    data.setup("test")
    assert len(data.rejects) == 0
    first = manifest.records[manifest.positions("test")[0]]
    value = 300 * (int(first.id.split("_")[-2]) + 1)
    wanted = round(min(1, value / 3000) * 255)
    assert data.sets["test"].pixels[0].float().mean() == pytest.approx(wanted, abs=1)


def test_a_patch_without_a_band_is_rejected_and_parquet_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    big_earth_v2(tmp_path)
    data = Satellite(str(tmp_path), layout=BigEarthNetV2(), bands=["B12", "B03", "B02"], preset=PRESET, loading=LOADING)
    with pytest.raises(RuntimeError, match="its folder holds 0 files of band B12"):
        data.setup("test")
    (tmp_path / "metadata.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"metadata\.parquet"):
        BigEarthNetV2().read(tmp_path)


def fmow(root):
    for split in ("train", "val"):
        for kind in ("airport", "crop_field"):
            for place in range(3):
                for time in range(2):
                    stem = root / split / kind / f"{kind}_{place}" / f"{kind}_{place}_{time}_rgb"
                    picture(stem.with_suffix(".jpg"), (40, 30))
                    boxes = [{"ID": 1, "category": kind, "box": [5, 4, 20, 10]}]
                    if place == 2:
                        boxes.append({"ID": 2, "category": "false_detection", "box": [0, 0, 9, 9]})
                    about = {"bounding_boxes": boxes, "timestamp": f"201{time}-02-03T04:05:06Z", "utm": "32U"}
                    stem.with_suffix(".json").write_text(json.dumps(about))


def test_fmow_keeps_the_times_of_a_place_together(tmp_path):
    fmow(tmp_path)
    (tmp_path / "train/airport/airport_0/airport_0_1_rgb.json").write_text("{")
    manifest = Fmow().read(tmp_path)
    assert manifest.classes == ("airport", "crop field")
    assert len(manifest.records) == 23
    assert [reject.reason for reject in manifest.rejected] == ["its JSON is damaged: JSONDecodeError"]
    assert {record.split for record in manifest.records} == {"train", "test"}
    assert len({record.patient for record in manifest.records}) == 12
    data = Satellite(str(tmp_path), layout=Fmow(), preset=PRESET, loading=Loading(workers=0, reject_share=0.1))
    data.setup("test")
    assert data.sets["test"].records[0].part == (5, 4, 20, 10)
    assert len(data.sets["test"]) == 12
    more = Fmow(false_detections=True).read(tmp_path)
    assert len(more.records) == 31
    assert more.classes[-1] == "false detection"


def test_a_box_outside_its_picture_is_rejected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fmow(tmp_path)
    for file in tmp_path.glob("*/*/*/*.json"):
        file.write_text(file.read_text().replace("[5, 4, 20, 10]", "[30, 4, 20, 10]"))
    data = Satellite(str(tmp_path), layout=Fmow(), preset=PRESET, loading=LOADING)
    with pytest.raises(RuntimeError, match="the box lies outside the picture of 40 x 30"):
        data.setup("test")
