"""What a long pass goes through, in which order, and what is told two sources apart by."""

import os

import pytest

from data_modules.readers.table import Table
from domainvl.data.bulk.images import chunks
from domainvl.data.bulk.sources import ImageColumn, ImageFolder, TextColumn, TextLines, Texts

SUFFIXES = (".jpg", ".png")


def folder(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return ImageFolder(root, SUFFIXES)


def test_a_folder_is_searched_to_its_depth_in_a_fixed_order(tmp_path):
    source = folder(tmp_path, "b.jpg", "a/z.PNG", "a/c/y.jpg", "c.txt", "a.jpg", ".hidden/x.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert [item.name for item in source] == [".hidden/x.png", "a/c/y.jpg", "a/z.PNG", "a.jpg", "b.jpg"]
    parts = [[item.name for item in some] for some in chunks(source, 2, 1)]
    assert parts == [["a/c/y.jpg", "a/z.PNG"], ["a.jpg", "b.jpg"]]
    before = source.survey()
    assert before.count == 5
    assert folder(tmp_path, "d.jpg").survey() != before
    (tmp_path / "d.jpg").unlink()
    assert source.survey() == before


def test_a_name_that_is_no_text_is_a_fault(tmp_path):
    source = folder(tmp_path, "a.jpg")
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "w"):
        pass
    assert [(item.name, item.fault) for item in source] == [("a.jpg", ""), ("\ufffd.jpg", "its name is not UTF-8")]


def test_the_paths_of_a_table_stay_inside_the_root(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text(f"id,image\n1,a/b.jpg\n2,../c.jpg\n3,{tmp_path}/d.jpg\n4,\n5,a/b.jpg\n")
    items = list(ImageColumn(Table(table), "image", tmp_path))
    good = [(item.row, item.name, item.content) for item in items if not item.fault]
    whole = f"{tmp_path}/d.jpg"
    assert good == [(2, "a/b.jpg", "a/b.jpg"), (4, whole, "d.jpg"), (6, "a/b.jpg", "a/b.jpg")]
    assert [(item.row, item.fault.split(":")[0]) for item in items if item.fault] == [(3, "row 3"), (5, "row 5")]


def test_texts_are_named_by_their_hash_and_never_shown(tmp_path):
    (tmp_path / "t.csv").write_text("a,text\n1,The heart is large.\n2,\n")
    items = list(Texts(TextColumn(Table(tmp_path / "t.csv"), "text")))
    assert [(item.row, item.content, item.fault) for item in items] == [
        (2, "The heart is large.", ""),
        (3, "", "the text is empty"),
    ]
    assert "heart" not in repr(items)
    (tmp_path / "t.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"t.txt is not UTF-8 text"):
        list(TextLines(tmp_path / "t.txt"))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda root: ImageFolder(root, SUFFIXES), r"no image lies in .*; looked for \.jpg, \.png"),
        (lambda root: ImageColumn(Table(root / "t.csv"), "image", root), "column 'image' of the table names no image"),
        (lambda root: Texts(TextColumn(Table(root / "t.csv"), "image")), "there is no text"),
    ],
)
def test_an_empty_source_is_refused(tmp_path, made, message):
    (tmp_path / "t.csv").write_text("image\n")
    with pytest.raises(ValueError, match=message):
        made(tmp_path).survey()
