"""Paths of a table stay below the root, and a root that is not there says what is."""

from pathlib import Path

import pytest

from domainvl.data.paths import existing_root, inside


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a/b.png", "a/b.png"), ("./a//b.png", "a/b.png"), ("a/../b.png", "b.png"), ("a\\b.png", "a/b.png")],
)
def test_paths_inside_are_made_plain(path, expected):
    assert inside(Path("/data"), path, "row 2") == expected


@pytest.mark.parametrize(
    "path", ["../b.png", "a/../../b.png", "/etc/passwd", "/data/../etc/x", "/database/x", "C:\\x.png", "..\\x", ""]
)
def test_paths_outside_are_refused(path):
    with pytest.raises(ValueError, match=r"row 2: the image path"):
        inside(Path("/data"), path, "row 2")


def test_an_absolute_path_below_the_root_is_inside():
    assert inside(Path("/data/cxr"), "/data/cxr/a/b.png", "row 2") == "a/b.png"


def test_a_missing_root_says_what_is_there(tmp_path):
    (tmp_path / "chest").mkdir()
    with pytest.raises(FileNotFoundError, match=r"does not exist; the folder .* holds chest"):
        existing_root(tmp_path / "chests" / "deep", "Toy")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file"):
        existing_root(tmp_path / "file", "Toy")
