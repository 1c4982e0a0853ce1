from pathlib import Path

import pytest

from domainvl.data import Label, LabelPolicy, Manifest, Record
from domainvl.data.fewshot import draw

P, N, U, B = Label.POSITIVE, Label.NEGATIVE, Label.UNCERTAIN, Label.BLANK
POLICY = LabelPolicy()


def single(train, validate="", patients=None):
    letters = train + validate
    names = patients or [f"p{n}" for n in range(len(letters))]
    rows = tuple(
        Record(f"{n}", f"{n}.png", names[n], (P, N) if letter == "x" else (N, P)) for n, letter in enumerate(letters)
    )
    manifest = Manifest("toy", Path(), rows, ("x", "y"), multilabel=False)
    return manifest, list(range(len(train))), list(range(len(train), len(letters)))


# What dassl/data/datasets/base_dataset.py draws from these lists with k = 3 and the seeds 1, 2, 3.
DASSL = [
    (1, [2, 0, 8, 1, 7, 4], [16, 19, 12, 11, 17, 21]),
    (2, [0, 8, 6, 5, 4, 9], [19, 15, 18, 20, 13, 11]),
    (3, [2, 8, 6, 9, 7, 5], [18, 10, 19, 17, 14, 13]),
]


@pytest.mark.parametrize(("seed", "train", "validate"), DASSL)
def test_single_label_draws_what_dassl_draws(seed, train, validate):
    data = single("yxyyxxyxyx", "xyxyyxxyxxyy")
    assert draw(*data, 3, seed, POLICY) == (train, validate)


def test_an_unreadable_image_is_replaced_and_the_others_stay():
    data = single("yxyyxxyxyx", "xyxyyxxyxxyy")
    train, validate = draw(*data, 3, 1, POLICY)
    again, same = draw(*data, 3, 1, POLICY, unreadable={train[0]})
    assert same == validate
    assert again[1:] == train[1:]
    assert again[0] not in train
    assert data[0].records[again[0]].labels == data[0].records[train[0]].labels


def test_single_label_draws_patients_not_images():
    patients = [f"p{n // 5}" for n in range(40)]
    manifest, train, _ = single("x" * 20 + "y" * 20, patients=patients)
    drawn, _ = draw(manifest, train, [], 4, 0, POLICY)
    assert len(drawn) == 8
    assert len({manifest.records[position].patient for position in drawn}) == 8


def test_a_class_that_is_too_small_is_named():
    with pytest.raises(ValueError, match="shots is 4, but only 2 training patients have 'x'"):
        draw(*single("xxyyyyy"), 4, 0, POLICY)


def test_validation_takes_what_there_is():
    _, validate = draw(*single("xxxxyyyy", "xyy"), 4, 0, POLICY)
    assert sorted(validate) == [8, 9, 10]


def multi(patients=60, images=2):
    """Patient n has class n % 4 (3: nothing); every second patient of class 0 has class 1 too."""
    rows = []
    for n in range(patients):
        kind = n % 4
        labels = (P if kind == 0 else N, P if kind == 1 or (kind == 0 and n % 8 == 0) else N, P if kind == 2 else N)
        rows += [Record(f"{n}-{i}", f"{n}-{i}.png", f"p{n}", labels) for i in range(images)]
    return Manifest("toy", Path(), tuple(rows), ("a", "b", "c"))


@pytest.mark.parametrize("shots", [1, 2, 4, 8])
def test_multilabel_has_k_patients_of_each_class_and_of_none(shots):
    manifest = multi()
    drawn, _ = draw(manifest, range(len(manifest.records)), [], shots, 5, POLICY)
    chosen = [manifest.records[position] for position in drawn]
    assert len(drawn) == len({record.patient for record in chosen}) == shots * 4
    for column in range(3):
        assert sum(record.labels[column] is P for record in chosen) >= shots
    assert sum(P not in record.labels for record in chosen) == shots


def test_multilabel_shots_are_nested_and_seeded():
    manifest = multi()
    sets = [set(draw(manifest, range(120), [], shots, 5, POLICY)[0]) for shots in (1, 2, 4, 8)]
    assert sets[0] < sets[1] < sets[2] < sets[3]
    assert set(draw(manifest, range(120), [], 4, 6, POLICY)[0]) != sets[2]


def test_multilabel_draw_does_not_depend_on_the_order_of_the_table():
    manifest = multi()
    turned = Manifest("toy", Path(), manifest.records[::-1], manifest.classes)
    ids = {manifest.records[n].id for n in draw(manifest, range(120), [], 4, 0, POLICY)[0]}
    assert ids == {turned.records[n].id for n in draw(turned, range(120), [], 4, 0, POLICY)[0]}


def test_multilabel_passes_over_unreadable_images():
    manifest = multi(images=1)
    first = draw(manifest, range(60), [], 2, 0, POLICY)[0]
    second = draw(manifest, range(60), [], 2, 0, POLICY, unreadable={first[0]})[0]
    assert len(second) == len(first)
    assert first[0] not in second


def test_uncertain_and_blank_patients_are_not_none_of_them():
    """Patient 0 and 1 have a class each; of the others only the last is known to have none of them."""
    labels = [(P, N), (N, P), (U, N), (N, U), (B, B), (N, N)]
    rows = tuple(Record(str(n), str(n), f"p{n}", one) for n, one in enumerate(labels))
    manifest = Manifest("toy", Path(), rows, ("a", "b"))
    for seed in range(8):
        assert sorted(draw(manifest, range(6), [], 1, seed, POLICY)[0]) == [0, 1, 5]
    with pytest.raises(ValueError, match=r"only 0 training patients have 'none of the classes'.*blank: negative"):
        draw(manifest, range(5), [], 1, 0, POLICY)
    assert sorted(draw(manifest, range(5), [], 1, 0, LabelPolicy(blank="negative"))[0]) == [0, 1, 4]
