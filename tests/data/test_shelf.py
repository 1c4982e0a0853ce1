"""Rows by key: growing, shared, bounded, and whole after a crash."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import time

import pytest
import torch

from domainvl.data import shelf as module
from domainvl.data.shelf import Shelf


def fields(kind):
    return {"row": ((kind,), torch.float32), "flag": ((), torch.bool)}


def key(number):
    return hashlib.blake2b(str(number).encode(), digest_size=16).digest()


def row(number, kind):
    return {"row": torch.full((kind,), float(number)), "flag": torch.tensor(number % 2 == 0)}


@pytest.fixture
def small_segments(monkeypatch):
    monkeypatch.setattr(module, "_SEGMENT", 100)


def check(shelf, numbers, kind):
    found = shelf.read([key(number) for number in numbers])
    assert set(found) == {key(number) for number in numbers}
    for number in numbers:
        for name, value in row(number, kind).items():
            assert torch.equal(found[key(number)][name], value)


@pytest.mark.usefixtures("small_segments")
def test_rows_come_back_from_many_segments(tmp_path):
    shelf = Shelf(tmp_path / "a", fields, 10**9)
    shelf.write(3, {key(number): row(number, 3) for number in range(20)})
    shelf.write(5, {key(number): row(number, 5) for number in range(20, 25)})
    shelf.write(3, {key(number): row(number, 3) for number in range(15, 19)})
    shelf.write(3, {key(number): row(number, 3) for number in range(30, 35)})
    for one in (shelf, Shelf(tmp_path / "a", fields, 10**9)):
        check(one, [*range(20), *range(30, 35)], 3)
        check(one, range(20, 25), 5)
        assert one.read([key(99)]) == {}
    assert len(list((tmp_path / "a").glob("3-*"))) > 2
    assert (tmp_path / "a" / "index.bin").stat().st_size == 32 * 30


def _write(folder, first):
    shelf = Shelf(folder, fields, 10**9)
    for number in range(first, first + 40):
        shelf.write(2, {key(number): row(number, 2)})


def test_processes_share_it(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write, args=(tmp_path / "a", first)) for first in (0, 20, 40)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    check(Shelf(tmp_path / "a", fields, 10**9), range(80), 2)
    assert (tmp_path / "a" / "index.bin").stat().st_size == 32 * 80


@pytest.mark.usefixtures("small_segments")
def test_a_killed_writer_leaves_nothing_broken(tmp_path):
    shelf = Shelf(tmp_path / "a", fields, 10**9)
    shelf.write(2, {key(number): row(number, 2) for number in range(3)})
    with (tmp_path / "a" / "index.bin").open("ab") as file:
        file.write(b"half an entry")
    again = Shelf(tmp_path / "a", fields, 10**9)
    check(again, range(3), 2)
    again.write(2, {key(7): row(7, 2)})
    check(Shelf(tmp_path / "a", fields, 10**9), [0, 1, 2, 7], 2)
    # A slot that was given out and never filled.
    with again._lock:
        again._give_out(2, [key(8)])
    third = Shelf(tmp_path / "a", fields, 10**9)
    assert third.read([key(8)]) == {}
    third.write(2, {key(8): row(8, 2)})
    check(again, [8], 2)


@pytest.mark.usefixtures("small_segments")
def test_the_budget_holds_and_idle_shelves_make_room(tmp_path):
    old, new = Shelf(tmp_path / "old", fields, 10**9), tmp_path / "new"
    old.write(2, {key(number): row(number, 2) for number in range(30)})
    size = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    tight = Shelf(new, fields, size + 50)
    tight.write(2, {key(number): row(number, 2) for number in range(30)})
    assert tight.read([key(0)]) == {}
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(tmp_path / "old" / "index.bin", (long_ago, long_ago))
    tight.write(2, {key(number): row(number, 2) for number in range(5)})
    check(tight, range(5), 2)
    assert not (tmp_path / "old").exists()
    tight.write(2, {key(number): row(number, 2) for number in range(5, 500)})
    kept = sum(file.stat().st_size for file in new.rglob("*.bin"))
    assert kept <= size + 50 + 32 * 500
    assert len(tight.read([key(number) for number in range(500)])) < 500
