"""The procedural slides: what is promised of the files on disk, read by libraries that did not write them."""

import csv
import hashlib

import numpy as np
import openslide
import pytest
from PIL import Image

from data_modules.readers.open_slide import open_slide
from domainvl import samples
from domainvl.samples.slides import LESIONS, PATIENTS, TRUTH_STEP
from domainvl.samples.slides.cases import draw_patients


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return samples.write("slides", tmp_path_factory.mktemp("samples") / "slides", seed=5, patients=9)


@pytest.fixture(scope="module")
def rows(folder):
    with (folder / "slides.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    once, again, other = (
        samples.write("slides", tmp_path / name, seed=seed, patients=2)
        for name, seed in (("once", 5), ("again", 5), ("other", 6))
    )

    def digests(root):
        files = sorted(path for path in root.rglob("*") if path.is_file())
        return {path.name: hashlib.sha256(path.read_bytes()).digest() for path in files}

    assert digests(once) == digests(again)
    assert digests(once) != digests(other)


def test_openslide_reads_every_slide(folder, rows):
    kinds = set()
    for row in rows:
        slide = openslide.OpenSlide(folder / row["slide"])
        kinds.add(slide.properties["openslide.vendor"])
        assert slide.level_count == 2
        width, height = slide.dimensions
        assert slide.level_dimensions[1] == (-(-width // 4), -(-height // 4))
        assert round(float(slide.properties["openslide.mpp-x"]), 4) in (0.5, 0.4952, 0.4657)
        assert open_slide(folder / row["slide"]).mpp == pytest.approx(
            float(slide.properties["openslide.mpp-x"]), rel=1e-5
        )
    assert kinds == {"aperio", "generic-tiff"}


def test_the_lesion_lies_where_the_truth_says(folder, rows):
    """Pixels of the lesion look unlike the healthy tissue around them, and lie on tissue."""
    for row in rows:
        path = folder / row["slide"]
        truth = np.asarray(Image.open(folder / "truth" / f"{path.stem}.png")).astype(bool)
        slide = open_slide(path)
        assert truth.shape == (-(-slide.size[1] // TRUTH_STEP), -(-slide.size[0] // TRUTH_STEP))
        coarse = slide.overview(slide.mpp * TRUTH_STEP).astype(int)
        tissue = coarse.max(-1) - coarse.min(-1) > 12
        assert tissue[truth].mean() > 0.9
        assert 0.05 < truth.sum() / tissue.sum() < 0.3
        if row["label"] == "tumor":
            other = tissue & ~truth
            # Nuclei are dark; the rest of the tissue is pink.
            assert coarse[truth].mean() < coarse[other].mean() - 5


def test_lesions_are_balanced_and_patients_stay_in_one_split():
    patients = draw_patients(0, PATIENTS)
    for split, count in (("train", 12), ("validate", 4), ("test", 12)):
        for lesion in LESIONS:
            own = [one for one in patients if one.split == split and one.slides[0].lesion == lesion]
            assert len(own) == count
    assert all(len({slide.lesion for slide in one.slides}) == 1 for one in patients)
    assert len({one.name for one in patients}) == PATIENTS
