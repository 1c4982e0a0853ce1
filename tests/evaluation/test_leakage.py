import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from domainvl import samples
from domainvl.evaluation.image_copies import Fingerprints, copies, identical
from domainvl.evaluation.leakage import SplitContent, check_leakage
from domainvl.evaluation.text_copies import text_copies


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Generated chest X-rays, one per patient, with their reports."""
    folder = samples.write("cxr", tmp_path_factory.mktemp("leak") / "cxr", seed=3, patients=90)
    found = {}
    with (folder / "studies.csv").open() as file:
        for row in csv.DictReader(file):
            if row["image"].endswith(".jpg") and row["patient"] not in found:
                with Image.open(folder / row["image"]) as image:
                    found[row["patient"]] = (np.asarray(image), (folder / row["report"]).read_text())
    return found


def jpeg(picture, quality=50):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def crop(picture, share, top, left):
    height, width = picture.shape
    down, across = round(height * share), round(width * share)
    y, x = round(down * top), round(across * left)
    return picture[y : y + height - down, x : x + width - across]


def resize(picture, factor):
    height, width = picture.shape
    return np.asarray(Image.fromarray(picture).resize((int(width * factor), int(height * factor)), Image.BICUBIC))


EDITS = {
    "q50": jpeg,
    "smaller": lambda p: resize(p, 0.7),
    "larger": lambda p: resize(p, 1.2),
    "other aspect": lambda p: np.asarray(Image.fromarray(p).resize((224, 224))),
    "cropped in the middle": lambda p: crop(p, 0.05, 0.5, 0.5),
    "cropped at a corner": lambda p: crop(p, 0.05, 0, 1),
    "cropped off the grid": lambda p: crop(p, 0.06, 0.3, 0.8),
    "all": lambda p: jpeg(resize(crop(p, 0.05, 0.2, 0.6), 0.8)),
    "gamma": lambda p: (255 * (p / 255) ** 1.2).astype(np.uint8),
}


def halves(archive):
    pictures = [picture for picture, _ in archive.values()]
    return pictures[: len(pictures) // 2], pictures[len(pictures) // 2 :]


def test_disjoint_pictures_share_nothing(archive):
    first, second = (Fingerprints.of(part) for part in halves(archive))
    assert min(len(first), len(second)) > 30
    assert identical(first, second) == []
    assert copies(first, second) == []


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("swapped", [False, True], ids=["test is the copy", "training is the copy"])
def test_edited_copies_are_found(archive, edit, swapped):
    first, second = halves(archive)
    planted = {5: 2, 17: 30, 40: 11}
    one, other = list(first), list(second)
    for row, source in planted.items():
        if swapped:
            other[row % len(other)], one[source] = first[source], EDITS[edit](first[source])
        else:
            other[row % len(other)] = EDITS[edit](first[source])
    found = copies(Fingerprints.of(one), Fingerprints.of(other))
    assert sorted(found) == sorted((source, row % len(other)) for row, source in planted.items())


def test_without_crops_only_whole_copies_are_found(archive):
    first, second = halves(archive)
    second = [jpeg(first[3]), crop(first[4], 0.05, 0, 1), *second]
    assert copies(Fingerprints.of(first), Fingerprints.of(second), crops=False) == [(3, 0)]


def test_a_handful_of_pictures(archive):
    """Too few for a median: it would lie between a picture and its copy."""
    first, second = halves(archive)
    assert copies(Fingerprints.of(first[:1]), Fingerprints.of([jpeg(first[0])])) == [(0, 0)]
    assert copies(Fingerprints.of(first[:3]), Fingerprints.of([*second[:2], crop(first[1], 0.05, 1, 1)])) == [(1, 2)]


def test_identical_pixels_are_not_listed_as_similar(archive):
    first, second = halves(archive)
    flat = np.full((40, 50), 7, np.uint8)
    one, other = Fingerprints.of([*first[:4], flat]), Fingerprints.of([second[0], first[2].copy(), flat + 1, flat])
    assert identical(one, other) == [(2, 1), (4, 3)]
    assert copies(one, other) == []
    assert copies(Fingerprints.of([]), other) == identical(Fingerprints.of([]), other) == []


def test_digest_covers_shape_and_type():
    rows = np.arange(24, dtype=np.uint8)
    found = Fingerprints.of([rows.reshape(4, 6), rows.reshape(6, 4), rows.reshape(4, 6).astype(np.int16)])
    assert len(set(found.digests)) == 3
    colour = np.repeat(rows.reshape(4, 6)[:, :, None], 3, axis=2)
    assert (Fingerprints.of([colour]).thumbs[0] == found.thumbs[0]).all()


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros(5), r"shape \(5,\)"),
        (np.zeros((4, 4, 100)), "100 channels"),
        (np.full((4, 4), np.nan), "NaN or infinity"),
    ],
)
def test_what_is_no_picture_is_refused(picture, message):
    with pytest.raises(ValueError, match=message):
        Fingerprints.of([picture])


def drawn(kind, seed, side=96):
    """What has little structure, or much of the same."""
    rng = np.random.default_rng(seed)
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    angle = rng.uniform(0, np.pi)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    noise = rng.normal(0, 4, (side, side))
    if kind == "smooth":
        coarse = Image.fromarray(rng.uniform(60, 200, (7, 7)).astype(np.uint8))
        found = np.asarray(coarse.resize((side, side), Image.BICUBIC)) + noise
    elif kind == "furrows":
        found = 120 + 30 * np.sin(along / rng.uniform(1.0, 2.0)) + noise
    elif kind == "road":
        found = np.where(abs(along - along.mean()) < 3, 200, 90) + noise
    else:
        across = rows * np.cos(angle) - columns * np.sin(angle)
        roofs = rng.random((64, 64)) < 0.5
        found = np.where(roofs[(along // 9).astype(int) % 64, (across // 9).astype(int) % 64], 190, 100) + noise
    return found.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["smooth", "furrows", "road", "roofs"])
def test_land_that_looks_alike_is_told_from_copies(kind):
    first, second = ([drawn(kind, seed) for seed in range(start, start + 40)] for start in (0, 40))
    known = Fingerprints.of(first)
    assert copies(known, Fingerprints.of(second)) == []
    planted = [jpeg(first[3], 60), crop(first[9], 0.05, 0.3, 0.8), first[20][5:], np.rot90(first[33])]
    expected = [(row, place + 40) for place, row in enumerate((3, 9, 20, 33))]
    assert copies(known, Fingerprints.of([*second, *planted])) == expected


NORMAL = "The lungs are clear. No pleural effusion or pneumothorax. The heart is not enlarged."


def test_texts_are_counted():
    first = [NORMAL, "Right upper lobe opacity, unchanged since the prior study of the patient last year in June.", ""]
    second = [
        "the lungs are clear  no pleural effusion, or pneumothorax. The heart is NOT enlarged",
        NORMAL + " Right upper lobe opacity, unchanged since the prior study of the patient last year in June.",
        "Left basal atelectasis and a small effusion with a drain in place and no pneumothorax seen now.",
        "  ",
        "clear",
    ]
    found = text_copies(first, second)
    assert (found.texts, found.same) == (4, [(0, 0)])
    # 30 words, 23 pieces, of which the 7 across the seam are new: 16/23.
    assert found.pieced == []
    assert found.share == pytest.approx((1 + 16 / 23) / 4)
    longer = text_copies([*first, "enlarged right upper lobe opacity"], second, words=3)
    assert longer.pieced == [(1, 1)]
    assert text_copies([], second) == text_copies(["", "!"], second)
    assert text_copies(first, ["", " "]).texts == 0
    with pytest.raises(ValueError, match="words is 0"):
        text_copies(first, second, 0)


def content(archive, names, **changes):
    values = {
        "ids": [f"image-{name}" for name in names],
        "patients": list(names),
        "pictures": Fingerprints.of(archive[name][0] for name in names),
        "texts": [archive[name][1] for name in names],
    }
    return SplitContent(**(values | changes))


def test_a_clean_archive_is_clean_and_says_so(archive):
    names = sorted(archive)
    parts = {"train": names[:50], "validate": names[50:60], "test": names[60:]}
    found = check_leakage({split: content(archive, part) for split, part in parts.items()})
    assert not found.leaks
    assert list(found.as_dict()) == ["crops", "train/validate", "train/test", "validate/test"]
    test = found.as_dict()["train/test"]
    assert (test["patients"], test["identical_images"], test["similar_images"]) == (
        ({"count": 0, "of": len(names) - 60},) * 3
    )
    assert 0 <= test["known_text"] <= 1
    assert found.notes()[1].startswith(f"Leakage check, test against train: 0 of {len(names) - 60} patients, 0 ident")


def test_everything_planted_is_found_and_ids_stay_in_the_file(archive):
    names = sorted(archive)
    train, test = names[:50], [*names[50:], names[7]]
    pictures = [archive[name][0] for name in test]
    pictures[0] = archive[names[1]][0].copy()
    pictures[1] = jpeg(crop(archive[names[2]][0], 0.05, 0.5, 0.5))
    pictures[-1] = jpeg(archive[names[3]][0])
    texts = [f"{archive[name][1]} number {row} and some more words" for row, name in enumerate(test)]
    texts[4] = archive[names[9]][1].upper()
    held = content(archive, test, pictures=Fingerprints.of(pictures), texts=texts)
    found = check_leakage({"train": content(archive, train), "test": held})
    assert found.leaks
    text = json.dumps(found.as_dict())
    plain = json.loads(text)["train/test"]
    assert plain["patients"] == {"count": 1, "of": len(test)}
    assert plain["similar_images"]["count"] == 2
    rows = found.rows()
    assert {splits for splits, *_ in rows} == {"train/test"}
    listed = {what: [pair for _, kind, *pair in rows if kind == what] for _, what, *_ in rows}
    assert listed["patients"] == [[names[7], names[7]]]
    assert listed["identical_images"] == [[f"image-{names[1]}", f"image-{test[0]}"]]
    assert listed["similar_images"] == [
        [f"image-{names[2]}", f"image-{test[1]}"],
        [f"image-{names[3]}", f"image-{test[-1]}"],
    ]
    assert [f"image-{test[4]}"] in [pair[1:] for pair in listed["identical_texts"]]
    shown = repr(found) + " ".join(found.notes()) + repr(held) + text
    assert "LEAKAGE, test against train: 1 of" in shown
    assert not any(name in shown for name in names)


def test_pairs_are_cut_at_twenty_and_counts_are_not():
    names = [f"p{n}" for n in range(30)]
    split = SplitContent(names, names, texts=["the same"] * 30)
    found = check_leakage({"train": split, "test": split}).overlaps["train", "test"]
    assert (found.patients.count, len(found.patients.pairs)) == (30, 20)
    assert found.identical_texts is not None
    assert (found.identical_texts.count, len(found.identical_texts.pairs)) == (30, 20)
    assert found.identical_images is found.similar_images is None
    assert found.as_dict()["similar_images"] is None


def test_splits_are_checked():
    with pytest.raises(ValueError, match="1 texts for 2 ids"):
        SplitContent(["a", "b"], ["p", "q"], texts=["x"])
    with pytest.raises(ValueError, match="splits are train; give two"):
        check_leakage({"train": SplitContent(["a"], ["p"])})
