"""The histology patches: real files, patients apart, captions that say what is drawn, pairs many to many."""

import csv
import hashlib
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from data_modules import Quilt1M
from domainvl import samples
from domainvl.samples.histo.captions import _NAMES
from domainvl.samples.histo.cases import KINDS, draw_patients


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return samples.write("histo", tmp_path_factory.mktemp("histo") / "a", seed=3, patients=14)


def test_the_same_seed_writes_the_same_files(small, tmp_path):
    again = samples.write("histo", tmp_path / "b", seed=3, patients=14)
    other = samples.write("histo", tmp_path / "c", seed=4, patients=2)

    def digests(folder):
        found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()}

    assert digests(again) == digests(small)
    assert not set(digests(other).values()) & set(digests(small).values())


def test_tables_name_real_pictures(small):
    rows = table(small / "studies.csv")
    assert len(rows) == len(list((small / "images").rglob("*.*"))) == 42
    kinds = Counter()
    for row in rows:
        with Image.open(small / row["image"]) as picture:
            assert picture.size == (128, 128)
            assert picture.mode == "RGB"
            kinds[picture.format] += 1
            # Stained tissue, neither black nor glass alone.
            assert 60 < np.asarray(picture).mean() < 250
    assert set(kinds) == {"JPEG", "PNG"}


def test_patients_keep_to_a_split_and_tissues_are_balanced():
    patients = draw_patients(0, 245)
    counts = Counter(patch.kind for patient in patients for patch in patient.patches)
    assert set(counts) == set(KINDS)
    assert max(counts.values()) < 1.3 * min(counts.values())
    splits = Counter(patient.split for patient in patients)
    assert (splits["train"], splits["validate"], splits["test"]) == (105, 35, 105)
    assert len({patient.name for patient in patients}) == 245


def test_captions_say_what_fills_the_patch(small):
    for row in table(small / "studies.csv"):
        first = row["caption"].split(". ")[0].lower()
        assert any(name.lower() in first for name in _NAMES[row["label"]])


def test_pairs_are_many_to_many(small):
    pairs = table(small / "quilt.csv")
    of_picture, of_caption = defaultdict(set), defaultdict(set)
    for pair in pairs:
        of_picture[pair["image_path"]].add(pair["caption"])
        of_caption[pair["caption"]].add(pair["image_path"])
    assert max(map(len, of_picture.values())) == 2
    assert max(map(len, of_caption.values())) > 1
    with_groups = Quilt1M("quilt.csv").read(small)
    owners = defaultdict(set)
    for record in with_groups.records:
        owners[record.patient].add(record.split)
    assert all(len(splits) == 1 for splits in owners.values())
