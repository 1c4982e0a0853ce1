from collections import Counter
from pathlib import Path

import pytest

from domainvl.data import Label, Manifest, Record
from domainvl.data.splits import SplitRule, assigned, check_disjoint, patient_split, split_hash

FRACTIONS = (0.7, 0.1, 0.2)


def manifest(*rows, **changes):
    records = tuple(Record(f"i{n}", f"i{n}", patient, split=split) for n, (patient, split) in enumerate(rows))
    return Manifest("toy", Path(), records, **changes)


def test_patients_who_join_move_nobody_and_shares_hold():
    few = {f"p{n}": patient_split(f"p{n}", FRACTIONS, 0) for n in range(4000)}
    assert {name: patient_split(name, FRACTIONS, 0) for name in list(few)[::7]}.items() <= few.items()
    shares = {split: count / 4000 for split, count in Counter(few.values()).items()}
    assert shares == pytest.approx({"train": 0.7, "validate": 0.1, "test": 0.2}, abs=0.02)
    assert few != {name: patient_split(name, FRACTIONS, 1) for name in few}


def test_patient_split_is_recorded():
    """Published splits are re-made from the seed, so the draw must never change."""
    second_letters = (patient_split(f"p{n}", FRACTIONS, 0)[1] for n in range(24))
    assert "".join(second_letters) == "rrrrrrarererrrarerrrerrr"


def test_images_of_a_patient_stay_together():
    split = assigned(manifest(*[(f"p{n % 30}", None) for n in range(300)]), SplitRule(3, FRACTIONS))
    check_disjoint(split)
    assert set(split.counts()) == {"train", "validate", "test"}


def test_validation_is_carved_by_patient_only_where_asked_for():
    rows = [(f"p{n // 2}", "train") for n in range(400)] + [("t", "test")]
    assert assigned(manifest(*rows), SplitRule(0, FRACTIONS)).counts() == {"train": 400, "test": 1}
    carved = assigned(manifest(*rows, carve=0.1), SplitRule(0, FRACTIONS))
    check_disjoint(carved)
    assert 20 <= carved.counts()["validate"] <= 60
    assert carved.counts()["test"] == 1


def test_a_patient_in_two_splits_stops_naming_three():
    leaky = manifest(*[(f"p{n}", split) for n in range(5) for split in ("train", "test")], ("q", "train"))
    with pytest.raises(ValueError, match=r"5 of 6 patients .*'p0' in train and test; 'p1' in .*'p2' in") as error:
        check_disjoint(leaky)
    assert "'p3'" not in str(error.value)


def test_a_half_filled_split_column_is_an_error():
    with pytest.raises(ValueError, match="1 of 2 rows name no split"):
        assigned(manifest(("a", "train"), ("b", None)), SplitRule(0, FRACTIONS))


def test_split_hash_depends_on_the_split_alone():
    records = manifest(("a", "train"), ("b", "test")).records
    assert split_hash(records) == split_hash(records[::-1])
    assert split_hash(records) != split_hash(manifest(("a", "train"), ("b", "train")).records)


def test_classes_are_chosen_and_ordered():
    labels = (Label.POSITIVE, Label.NEGATIVE, Label.BLANK)
    both = Manifest("toy", Path(), (Record("i", "i", "p", labels),), ("a", "b", "c"))
    assert both.with_classes(["c", "a"]).records[0].labels == (Label.BLANK, Label.POSITIVE)
    with pytest.raises(ValueError, match="unknown class 'Edma'; did you mean 'Edema'"):
        Manifest("toy", Path(), (), ("Edema", "Mass")).with_classes(["Edma"])
    with pytest.raises(ValueError, match="'a' is asked for twice"):
        both.with_classes(["a", "a"])


def test_single_label_records_of_other_classes_are_left_out():
    rows = (
        Record("1", "1", "p", (Label.POSITIVE, Label.NEGATIVE)),
        Record("2", "2", "q", (Label.NEGATIVE, Label.POSITIVE)),
    )
    chosen = Manifest("toy", Path(), rows, ("a", "b"), multilabel=False).with_classes(["b"])
    assert [record.id for record in chosen.records] == ["2"]


def test_repr_holds_no_patient_and_no_text():
    shown = repr(Record("i", "i.jpg", "JANE", findings="FLUID", impression="WET", study="JANE/1"))
    assert not any(word in shown for word in ("JANE", "FLUID", "WET"))
