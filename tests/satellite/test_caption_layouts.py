"""Pairs of image and caption as they are downloaded, in miniature."""

import io
import json
import tarfile

import pytest
from PIL import Image

from data_modules import (
    CaptionLines,
    KarpathyCaptions,
    Rs5m,
    Rsicd,
    Rsitmd,
    Satellite,
    SkyScript,
    SydneyCaptions,
    TarPairs,
    UcmCaptions,
)
from domainvl.data.labels import Label
from domainvl.data.loading import Loading
from domainvl.data.preset import Preset
from domainvl.data.texts.views import TextViews

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

PRESET = Preset("toy", 16)
VIEWS = {"caption": 1.0} | {f"caption_{number}": 1.0 for number in range(2, 6)}
SENTENCES = ["Many trees .", "A forest.", "a forest.", "Trees  seen from above.", "green forest"]


def picture(path, colour=(90, 120, 60)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 20), colour).save(path)


def data(root, layout, views=VIEWS):
    return Satellite(
        str(root),
        layout=layout,
        preset=PRESET,
        texts=TextViews(views),
        loading=Loading(batch_size=2, workers=0, reject_share=1.0),
    )


def karpathy(root, file, folder, suffix, texts=SENTENCES):
    images = []
    for number, split in enumerate(("train", "train", "val", "test")):
        name = f"{('forest', 'forest', 'port', '00123')[number]}_{number}{suffix}"
        picture(root / folder / name, (10 * number, 90, 60))
        said = [
            {"raw": text, "tokens": text.split(), "imgid": number, "sentid": 5 * number + place}
            for place, text in enumerate(texts if number else ["", " ", *texts[2:]])
        ]
        sentids = [one["sentid"] for one in said]
        images.append({"filename": name, "imgid": number, "split": split, "sentids": sentids, "sentences": said})
    (root / file).write_text(json.dumps({"dataset": "toy", "images": images}))


@pytest.mark.parametrize(
    ("layout", "file", "folder", "suffix"),
    [
        (Rsicd(), "dataset_rsicd.json", "RSICD_images", ".jpg"),
        (Rsitmd(), "dataset_RSITMD.json", "images", ".tif"),
        (UcmCaptions(), "dataset.json", "imgs", ".tif"),
        (SydneyCaptions(), "dataset.json", "imgs", ".tif"),
        (KarpathyCaptions(images="pics", file="mine.json"), "mine.json", "pics", ".png"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_karpathy_json(tmp_path, layout, file, folder, suffix):
    karpathy(tmp_path, file, folder, suffix)
    module = data(tmp_path, layout)
    records = module.manifest.records
    assert module.manifest.counts() == {"train": 2, "validate": 1, "test": 1}
    assert list(records[1].texts.values()) == [" ".join(text.split()) for text in SENTENCES]
    assert list(records[0].texts) == ["caption", "caption_2", "caption_3"]
    assert any("2 of 20 captions are empty" in one for one in module.manifest.warnings)
    module.setup("test")
    (batch,) = list(module.test_dataloader())
    assert batch["image"].shape == (1, 3, 16, 16)


def test_scenes_are_the_words_in_front_of_names_and_unknown_where_there_are_none(tmp_path):
    karpathy(tmp_path, "dataset.json", "images", ".jpg")
    manifest = KarpathyCaptions(scenes=True).read(tmp_path)
    assert manifest.classes == ("forest",)
    assert [record.labels for record in manifest.records] == [(Label.POSITIVE,)] * 2 + [(Label.BLANK,)] * 2


def test_an_image_without_a_caption_is_rejected(tmp_path):
    karpathy(tmp_path, "dataset.json", "images", ".jpg", texts=["", "", "", "", "x"])
    read = json.loads((tmp_path / "dataset.json").read_text())
    read["images"][2]["sentences"] = [{"raw": "  "}]
    (tmp_path / "dataset.json").write_text(json.dumps(read))
    manifest = KarpathyCaptions().read(tmp_path)
    assert len(manifest.records) == 3
    assert [one.reason for one in manifest.rejected] == ["none of its 1 captions says anything"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no JSON"),
        ("[]", "no list `images`"),
        ('{"images": [{"filename": "a.jpg", "split": "train"}]}', "image 1 lacks filename"),
        ('{"images": [{"filename": "a.jpg", "split": "some", "sentences": []}]}', "image 1: 'some' is no split"),
        ('{"images": [{"filename": "../../a", "split": "val", "sentences": []}]}', "leads out of the root"),
        ('{"images": [{"filename": 3, "split": "val", "sentences": [{"raw": "x"}]}]}', "must be texts"),
        ('{"images": [{"filename": "a.jpg", "split": "val", "sentences": []}]}', "none of 1 images"),
    ],
)
def test_json_that_is_none_of_these(tmp_path, content, message):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        KarpathyCaptions().read(tmp_path)


def test_five_lines_per_image_with_names_once_or_beside_every_line(tmp_path):
    """AMFMN's training lists name an image once, its test lists five times."""
    for number in range(3):
        picture(tmp_path / f"images/{number}.jpg")
    (tmp_path / "train_caps.txt").write_text("\n".join([*SENTENCES, *SENTENCES[:4], ""]) + "\n")
    (tmp_path / "train_filename.txt").write_text("0.jpg\n1.jpg\n")
    (tmp_path / "test_caps.txt").write_text("\n".join(SENTENCES))
    (tmp_path / "test_filename.txt").write_text("2.jpg\n" * 5)
    manifest = data(tmp_path, CaptionLines()).manifest
    assert manifest.positions("test") == [2]
    by_path = {record.path: record for record in manifest.records}
    assert [len(by_path[f"images/{n}.jpg"].texts) for n in range(3)] == [5, 4, 5]
    (tmp_path / "train_filename.txt").write_text("0.jpg\n1.jpg\n3.jpg\n")
    with pytest.raises(ValueError, match="10 lines"):
        CaptionLines().read(tmp_path)
    (tmp_path / "train_filename.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"train_filename\.txt is missing"):
        CaptionLines().read(tmp_path)


def test_skyscript(tmp_path):
    titles = {"train": "a farm", "val": "", "test": "a quay"}
    for split, title in titles.items():
        rows = ["filepath,title,title_multi_objects"]
        for name in ("a12_CH_19", "w7_SWISSIMAGE_20"):
            picture(tmp_path / f"images2/{split}_{name}.jpg".replace(f"{split}_", ""))
            rows.append(f'images2/{name}.jpg,{title},"{title}, surrounded by trees"')
        rows.append("images2/n9_x_21.jpg,,")
        (tmp_path / "dataframe").mkdir(exist_ok=True)
        (tmp_path / f"dataframe/SkyScript_{split}_filtered.csv").write_text("\n".join(rows))
    manifest = SkyScript().read(tmp_path)
    assert {record.patient for record in manifest.records} == {"a12", "w7"}
    assert len(manifest.rejected) == 3
    assert manifest.records[0].texts == {"title": "a farm", "title_multi_objects": "a farm, surrounded by trees"}
    (tmp_path / "dataframe/another_train.csv").write_text("filepath,title\n")
    with pytest.raises(ValueError, match="name the one to use"):
        SkyScript().read(tmp_path)


def jpeg(colour=(90, 120, 60)):
    file = io.BytesIO()
    Image.new("RGB", (20, 20), colour).save(file, "JPEG")
    return file.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def rs5m(number, picture=None, caption="a harbour"):
    key = f"{number:05d}"
    return [
        (f"{key}.img_content", jpeg() if picture is None else picture),
        (f"{key}.caption", caption.encode()),
        (f"{key}.img_name", f"{number}.jpg".encode()),
    ]


def test_rs5m(tmp_path):
    write_tar(tmp_path / "rs3-train-0000.tar", [*rs5m(1), *rs5m(2, jpeg((255, 0, 0)))])
    write_tar(tmp_path / "rs3-val-0000.tar", rs5m(3))
    write_tar(tmp_path / "pub11-train-0000.tar", rs5m(1))
    module = data(tmp_path, Rs5m(), {"caption": 1.0})
    assert module.manifest.counts()["train"] == 3
    module.setup("fit")
    images = module.images_of("train")
    red = next(row for row, record in enumerate(images.records) if record.id.endswith("rs3-train-0000.tar/00002"))
    pixels = images[red][1].float().mean((1, 2))
    assert pixels[0] > 240
    assert pixels[1:].max() < 15


BAD = {
    "caption missing": ([("b.jpg", jpeg())], "its caption is missing"),
    "picture missing": ([("b.txt", b"a quay")], "its picture is missing"),
    "caption empty": ([("b.jpg", jpeg()), ("b.txt", b" \n")], "its caption is empty"),
    "picture empty": ([("b.jpg", b""), ("b.txt", b"a quay")], "its picture is empty (0 bytes)"),
    "not text": ([("b.jpg", jpeg()), ("b.txt", b"\xff\xfe\x00")], "its caption is no UTF-8 text"),
    "not JSON": ([("b.jpg", jpeg()), ("b.json", b"{")], "its caption is no JSON"),
    "two pictures": ([("b.jpg", jpeg()), ("b.png", jpeg()), ("b.txt", b"a quay")], "it has two pictures"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_sample_that_is_not_whole_is_counted_and_the_others_are_read(tmp_path, bad):
    members, reason = BAD[bad]
    whole = [
        ("part/a.jpg", jpeg()),
        ("c.png", jpeg()),
        ("part/a.txt", b"a field"),
        ("c.json", b'{"caption": "a farm"}'),
    ]
    write_tar(tmp_path / "pairs-train-0.tar", [whole[0], *members, *whole[1:]])
    manifest = TarPairs().read(tmp_path)
    assert {record.id.partition(".tar/")[2]: record.texts["caption"] for record in manifest.records} == {
        "part/a": "a field",
        "c": "a farm",
    }
    assert [one.reason for one in manifest.rejected] == [reason]


@pytest.mark.parametrize("kept", [0.5, 0.62])
def test_a_tar_that_ends_early_loses_only_its_end(tmp_path, kept):
    path = tmp_path / "x-train.tar"
    write_tar(path, [member for number in range(4) for member in rs5m(number)])
    whole = path.read_bytes()
    used = len(whole.rstrip(b"\0"))
    path.write_bytes(whole[: int(used * kept)])
    manifest = Rs5m().read(tmp_path)
    assert 1 <= len(manifest.records) <= 2
    assert any("damaged" in one.reason for one in manifest.rejected)


def test_a_broken_header_is_no_silent_end(tmp_path):
    path = tmp_path / "x-train.tar"
    write_tar(path, [*rs5m(1), *rs5m(2)])
    content = bytearray(path.read_bytes())
    place = content.index(b"00002.img_content")
    content[place : place + 300] = b"\xaa" * 300
    path.write_bytes(content)
    manifest = Rs5m().read(tmp_path)
    assert len(manifest.records) == 1
    assert [one.reason.partition(",")[0] for one in manifest.rejected] == ["the tar is damaged"]


def test_a_picture_that_is_none_is_rejected_when_it_is_read(tmp_path):
    write_tar(tmp_path / "x-test.tar", [*rs5m(1), *rs5m(2, picture=b"no picture")])
    module = data(tmp_path, Rs5m(split="test"), {"caption": 1.0})
    module.setup("test")
    batches = list(module.test_dataloader())
    assert sum(len(batch["id"]) for batch in batches) == 1
    assert len(module.rejects) == 1


def test_without_tars(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=r"Unpack \.tar\.gz to \.tar"):
        TarPairs().read(tmp_path)
    write_tar(tmp_path / "a.tar", [("b.txt", b"a quay")])
    with pytest.raises(ValueError, match="its picture is missing"):
        TarPairs().read(tmp_path)
