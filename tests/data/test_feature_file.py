"""Feature files: ours, CLAM's and TRIDENT's; whole or not there; of the right encoder or refused by name."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from domainvl.data import UnreadableImage
from domainvl.data.feature_file import FeatureWriter, Geometry, Maker, Places, damaged_tiles, read_features

MAKER = Maker("plip", "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc")
PLACES = Places(np.arange(20).reshape(10, 2) * 512, Geometry(0.2325, 0.5, 256, 0, 9000, 8000))


def features(rows):
    rng = np.random.default_rng(0)
    whole = {"features": rng.normal(size=(10, 6)), "projected": rng.normal(size=(10, 4))}
    return {name: values[rows].astype(np.float32) for name, values in whole.items()}


def written(path, skip=()):
    writer = FeatureWriter(path, PLACES, MAKER, "source")
    for start in (0, 4, 8):
        rows = np.array([row for row in range(start, min(start + 4, 10)) if row not in skip])
        writer.add(rows, features(rows))
    assert not path.exists()
    writer.finish()
    return path


def test_a_file_comes_back_as_it_was_written(tmp_path):
    path = written(tmp_path / "a.h5")
    found = read_features(path, MAKER)
    expected = features(np.arange(10))
    assert np.array_equal(found.deep, expected["features"].astype(np.float16))
    assert np.array_equal(found.joint, expected["projected"].astype(np.float16))
    assert np.array_equal(found.places.at, PLACES.at)
    assert found.places.geometry == PLACES.geometry
    assert found.places.geometry.side == pytest.approx(256 * 0.5 / 0.2325)
    with h5py.File(path) as file:
        assert file["features"].chunks is None
        assert file["coords"].attrs["patch_size_level0"] == 551
        assert file["features"].attrs["encoder"] == "plip"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.h5"]


def test_damaged_tiles_have_no_rows(tmp_path):
    path = written(tmp_path / "a.h5", skip=(2, 9))
    found = read_features(path, MAKER)
    rows = np.array([0, 1, 3, 4, 5, 6, 7, 8])
    assert np.array_equal(found.deep, features(rows)["features"].astype(np.float16))
    assert np.array_equal(found.places.at, PLACES.at[rows])
    assert found.damaged == damaged_tiles(path, MAKER, "source") == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"encoder_sha": "dddddddddddd", "encoder": "conch"}, r"another encoder: plip \(a+\), wanted is conch \(d+\)"),
        ({"preset_sha": "dddddddddddd"}, "another preprocessing: b+, wanted is d+"),
        ({"plan_sha": "dddddddddddd"}, "another tile plan: c+, wanted is d+"),
    ],
)
def test_features_of_something_else_are_refused_by_name(change, says, tmp_path):
    path = written(tmp_path / "a.h5")
    wanted = replace(MAKER, **change)
    with pytest.raises(UnreadableImage, match=says):
        read_features(path, wanted)
    assert damaged_tiles(path, wanted, "source") is None
    assert damaged_tiles(path, MAKER, "another source") is None
    assert damaged_tiles(tmp_path / "b.h5", MAKER, "source") is None
    assert damaged_tiles(path, MAKER, "source") == 0


def foreign(path, batch=False, names=("features", "coords"), rows=(7, 7), attributes=None):
    values = {"features": np.random.default_rng(0).random((rows[0], 6), np.float32)}
    values["coords"] = np.arange(2 * rows[1], dtype=np.int32).reshape(-1, 2)
    with h5py.File(path, "w") as file:
        for name, as_name in zip(values, names, strict=True):
            file[as_name] = values[name][None] if batch else values[name]
            file[as_name].attrs.update(attributes or {})
    return values


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("attributes", [{}, {"encoder": "uni_v1", "patch_size": 256, "patch_size_level0": 512}])
def test_files_of_clam_and_trident_are_read_when_asked_for(batch, attributes, tmp_path):
    values = foreign(tmp_path / "a.h5", batch, attributes=attributes)
    found = read_features(tmp_path / "a.h5", None)
    assert np.array_equal(found.deep, values["features"])
    assert np.array_equal(found.places.at, values["coords"])
    assert found.places.at.dtype == np.int64
    assert found.joint is None
    assert found.places.geometry is None
    with pytest.raises(UnreadableImage, match="another encoder: an unnamed encoder \\(no hash\\), wanted is plip"):
        read_features(tmp_path / "a.h5", MAKER)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"names": ("feats", "coords")}, "no features and coords; it holds coords, feats"),
        ({"rows": (7, 6)}, r"do not fit each other: \[6, 7\] rows"),
        ({"rows": (0, 0)}, "no tile has enough tissue"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(options, says, tmp_path):
    foreign(tmp_path / "a.h5", **options)
    with pytest.raises(UnreadableImage, match=says):
        read_features(tmp_path / "a.h5", None)


def test_half_a_file_is_none(tmp_path):
    path = written(tmp_path / "a.h5")
    path.write_bytes(path.read_bytes()[:500])
    assert damaged_tiles(path, MAKER, "source") is None
    with pytest.raises(UnreadableImage, match="no whole HDF5 file"):
        read_features(path, MAKER)


def test_what_does_not_fit_into_16_bits_is_refused(tmp_path):
    writer = FeatureWriter(tmp_path / "a.h5", PLACES, MAKER, "source")
    with pytest.raises(ValueError, match="features of plip do not fit into 16 bits"):
        writer.add(np.array([0]), {"features": np.full((1, 3), 1e6, np.float32)})
    writer.discard()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError, match="nothing to finish"):
        FeatureWriter(tmp_path / "a.h5", PLACES, MAKER, "source").finish()
