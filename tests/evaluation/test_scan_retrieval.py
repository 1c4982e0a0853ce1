"""Reconstructions of a scan are one image of the pool, and share a report."""

import numpy as np
import pytest

from domainvl.evaluation import SCAN, STUDY, AlignmentPredictions, Embeddings, Pairs, evaluate_alignment, retrieve
from domainvl.evaluation.retrieval import RetrievalProtocol, searched_images

SCANS = 12


def planted(counts, spread=0.0):
    """A report per scan, and as many reconstructions as `counts` says, which lie `spread` around one direction."""
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(SCANS, 8))
    centres = texts + 1.2 * rng.normal(size=texts.shape)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    images, ids, scans = [], [], []
    for scan, count in enumerate(counts):
        noise = rng.normal(size=(count, 8))
        for part, moved in enumerate(noise - noise.mean(axis=0)):
            # Any length: only the direction counts.
            images.append((centres[scan] + spread * moved) * rng.uniform(0.5, 9))
            ids.append(f"{scan}-{part}")
            scans.append(f"scan{scan}")
    owner = [int(name.split("-")[0]) for name in ids]
    pairs = Pairs(ids, ids, [f"p{scan // 2}" for scan in owner], scans, [f"report {scan}" for scan in owner])
    return AlignmentPredictions(pairs, Embeddings(np.array(images), texts[owner]))


def test_a_scan_counts_once_however_often_it_was_reconstructed():
    once, often = planted([1] * SCANS), planted([1, 3, 2] * (SCANS // 3))
    (single,), (several,) = retrieve(once, SCAN), retrieve(often, SCAN)
    for name, value in single.values().items():
        assert value == several.values()[name], name
    facts = several.facts()
    assert (facts["pool_images"], facts["pool_texts"]) == (SCANS, SCANS)
    assert facts["queries"] == {"images": SCANS, "texts": SCANS}
    (by_study,) = retrieve(often, STUDY)
    assert by_study.facts()["pool_images"] == 2 * SCANS
    assert by_study.values()["i2t_r1"] != single.values()["i2t_r1"], "a scan with three counts three times there"


def test_a_scan_is_the_mean_of_its_normalised_reconstructions():
    data = planted([2] * SCANS, spread=0.4)
    images = data.zero_shot.images
    unit = images / np.linalg.norm(images, axis=1, keepdims=True)
    found = searched_images(data.pairs, SCAN, images)
    assert np.allclose(found, unit.reshape(SCANS, 2, 8).mean(axis=1).repeat(2, axis=0))
    assert searched_images(data.pairs, STUDY, images) is images


def test_pools_hold_whole_scans():
    (found,) = retrieve(planted([2] * SCANS), RetrievalProtocol("small", "scan", pool=4))
    assert found.facts()["pools"] == 3
    assert (found.facts()["pool_images"], found.facts()["pool_texts"]) == (4, 4)


def test_the_notes_say_how_it_was_counted():
    measured = evaluate_alignment(planted([2] * SCANS), seed=1, resamples=20, protocol=SCAN)
    text = " ".join(measured.notes)
    assert "the images of a study are averaged and count once" in text
    assert "12 of 24 images do not search" in text
    assert "counted with their scan" in text
    with pytest.raises(ValueError, match="'scan' or 'unique-text'"):
        RetrievalProtocol("x", "scans")
