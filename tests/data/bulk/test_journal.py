"""The journal of a long pass: whatever a kill leaves is cut back to whole batches."""

import json
from pathlib import Path

import numpy as np
import pytest

from domainvl.data.bulk.job import Job
from domainvl.data.bulk.journal import Answered, Journal
from domainvl.data.bulk.outputs import ArrayOutput, CsvOutput
from domainvl.data.bulk.sources import Item, TextLines, Texts

BATCH, WIDTH = 4, 3
REJECTED = {1, 6, 7}


def answered(start, stop):
    numbers = range(start, stop)
    good = [number for number in numbers if number not in REJECTED]
    values = np.array([[number, number / 7, -number] for number in good], np.float32).reshape(-1, WIDTH)
    items = [Item(0, f"dir/ä\n{number}") for number in numbers]
    return Answered(items, ["broken" if number in REJECTED else "" for number in numbers], values)


def opened(folder, dtype=np.float32):
    return Journal(folder, WIDTH, np.dtype(dtype), BATCH)


def filled(folder, batches=3):
    with opened(folder) as journal:
        for start in range(0, batches * BATCH, BATCH):
            journal.append(answered(start, start + BATCH))


def cut(path, size):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - size)


def added(path, text):
    with path.open("ab") as file:
        file.write(text)


@pytest.mark.parametrize(
    ("damage", "done"),
    [
        (lambda lines, values: None, 12),
        (lambda lines, values: cut(lines, 1), 8),
        (lambda lines, values: cut(lines, 30), 8),
        (lambda lines, values: added(lines, b'[0, "dir/12", ""]\n[0, "di'), 12),
        (lambda lines, values: added(lines, b'[0, "dir/12"]\n'), 12),
        (lambda lines, values: added(lines, b"\0" * 50 + b"\n"), 12),
        (lambda lines, values: added(values, b"half"), 12),
        (lambda lines, values: cut(values, 1), 8),
        (lambda lines, values: cut(values, 5 * WIDTH * 4), 4),
        (lambda lines, values: cut(values, values.stat().st_size), 0),
        (lambda lines, values: lines.unlink(), 0),
        (lambda lines, values: values.unlink(), 0),
    ],
)
def test_what_a_kill_leaves_is_cut_back_to_whole_batches(tmp_path, damage, done):
    filled(tmp_path)
    damage(tmp_path / "rows.jsonl", tmp_path / "values.npy")
    with opened(tmp_path) as journal:
        assert journal.done == done
        for start in range(done, 16, BATCH):
            journal.append(answered(start, start + BATCH))
        good = [number for number in range(16) if number not in REJECTED]
        rows = [(line.name, *row) for lines, values in journal.kept(5) for line, row in zip(lines, values, strict=True)]
        assert [row[0] for row in rows] == [f"dir/ä\n{number}" for number in good]
        np.testing.assert_array_equal([row[1:] for row in rows], answered(0, 16).values)
        assert [reject.path for reject in journal.rejects()] == [f"dir/ä\n{number}" for number in sorted(REJECTED)]
        whole = np.load(journal.seal(), mmap_mode="r")
        np.testing.assert_array_equal(whole, answered(0, 16).values)


def test_rows_of_the_wrong_shape_are_refused(tmp_path):
    with opened(tmp_path) as journal, pytest.raises(ValueError, match=r"2 rows of 3 numbers belong here, got \(1, 3\)"):
        journal.append(Answered([Item(0, "a"), Item(0, "b")], ["", ""], np.zeros((1, WIDTH))))
    with opened(tmp_path) as journal:
        assert journal.done == journal.good == 0


def job(folder, kind=None, **made_of):
    return Job(folder / "o.npy", kind or ArrayOutput(), {"adapter": "a", "source": "s"} | made_of, "xyz", BATCH)


def texts(folder):
    path = folder / "t.txt"
    path.write_text("one\ntwo\n\nthree\n")
    return Texts(TextLines(path))


def test_a_job_goes_on_only_as_what_it_is(tmp_path):
    with job(tmp_path).opened() as journal:
        journal.append(answered(0, 4))
    assert not job(tmp_path).finished()
    for changed, message in (
        (
            {"adapter": "b"},
            'was begun with another adapter: "a" there, "b" now; give another --output, or delete .*part',
        ),
        ({"source": "b"}, "was begun with another source"),
        ({"kind": ArrayOutput(np.float16)}, 'another numbers: "float32" there, "float16" now'),
    ):
        with pytest.raises(ValueError, match=message):
            job(tmp_path, **changed).finished()
    (tmp_path / "o.partial" / "job.json").write_text("[")
    with pytest.raises(ValueError, match="is damaged; delete it"):
        job(tmp_path).finished()


def test_a_job_is_finished_once_and_writes_over_nothing(tmp_path):
    source = texts(tmp_path)
    assert [(item.row, item.fault) for item in source] == [(1, ""), (2, ""), (3, "the text is empty"), (4, "")]
    with job(tmp_path).opened() as journal:
        items = list(source)
        journal.append(Answered(items, [item.fault for item in items], np.arange(9, dtype=np.float32).reshape(3, 3)))
        job(tmp_path).finish(journal, source)
    assert job(tmp_path).finished()
    assert sorted(path.name for path in tmp_path.glob("o.*")) == ["o.csv", "o.json", "o.npy", "o.rejects.csv"]
    assert np.load(tmp_path / "o.npy").tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    table = (tmp_path / "o.csv").read_text()
    assert [line.split(",")[:2] for line in table.splitlines()] == [
        ["index", "row"],
        ["0", "1"],
        ["1", "2"],
        ["2", "4"],
    ]
    assert "three" not in table + (tmp_path / "o.rejects.csv").read_text() + (tmp_path / "o.json").read_text()
    known = json.loads((tmp_path / "o.json").read_text())
    assert (known["written"], known["rejected"]) == (3, 1)
    with pytest.raises(ValueError, match="lies there with another adapter"):
        job(tmp_path, adapter="b").finished()
    with pytest.raises(ValueError, match=r"o.json is there already, and not of this command"):
        Job(tmp_path / "o.tsv", CsvOutput(), {}, "xyz", BATCH).finished()


def test_killed_before_the_wanted_file_has_its_name_a_job_goes_on(tmp_path, monkeypatch):
    source, replace = texts(tmp_path), Path.replace
    values = np.arange(12, dtype=np.float32).reshape(4, 3)

    def dies(path, target):
        if Path(target).name == "o.npy":
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", dies)
    with job(tmp_path).opened() as journal:
        journal.append(Answered(list(source), [""] * 4, values))
        with pytest.raises(KeyboardInterrupt):
            job(tmp_path).finish(journal, source)
    monkeypatch.undo()
    assert not job(tmp_path).finished()
    with job(tmp_path).opened() as journal:
        assert journal.done == 4
        job(tmp_path).finish(journal, source)
    assert job(tmp_path).finished()
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), values)


def test_two_processes_do_not_write_one_job(tmp_path, monkeypatch):
    monkeypatch.setattr("domainvl.data.bulk.job._WAIT", 0.01)
    with (
        job(tmp_path).opened(),
        pytest.raises(ValueError, match="another process is writing it"),
        job(tmp_path).opened(),
    ):
        pass
