"""The store of prepared volumes: made once, by whoever comes first, whole or not at all."""

import copy
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from ct_phantoms import affine, body, chest, save
from store_worker import PLAN, jobs

from data_modules.readers.volume import read_volume
from domainvl.data import UnreadableImage
from domainvl.data.volumes.plan import VolumePlan
from domainvl.data.volumes.store import Entry, Job, StoreFull, VolumeStore, key_of
from domainvl.data.volumes.volume import Volume

WORKER = Path(__file__).with_name("store_worker.py")
SHAPE = (24, 28, 32)


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "scans"
    for number in range(6):
        chest(folder / f"{number}.nii.gz", seed=number, shape=SHAPE, spacing=(10.0, 8.0, 8.0))
    return folder


@pytest.fixture
def store(tmp_path):
    return VolumeStore(tmp_path / "store", PLAN)


def logged(log):
    return Counter(line.split()[0] for line in log.read_text().splitlines()) if log.exists() else Counter()


def start(folder, root, log, seconds):
    command = [sys.executable, str(WORKER), str(folder), str(root), str(log), str(seconds)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.01)


def test_volumes_are_made_once_and_found_again(scans, store, tmp_path):
    log = tmp_path / "log"
    first = store.prepare(jobs(scans, log), workers=3)
    again = VolumeStore(store.root, PLAN).prepare(jobs(scans, log))
    assert first == again
    assert set(logged(log).values()) == {1}
    for number, entry in enumerate(first):
        voxels, placed = PLAN.prepare(read_volume(scans / f"{number}.nii.gz"))
        assert np.array_equal(entry.voxels(), voxels)
        assert isinstance(entry.voxels(), np.memmap)
        assert np.array_equal(entry.matrix, placed)
        entry.verify()
    assert not list(store.folder.glob("*.lock"))


def test_a_killed_process_loses_at_most_the_volume_in_hand(scans, store, tmp_path):
    log = tmp_path / "log"
    process = start(scans, store.root, log, 0.4)
    (tmp_path / "go").touch()
    wait_for(lambda: sum(logged(log).values()) == 4)
    process.send_signal(signal.SIGKILL)
    process.wait()
    whole = [store.find(job.key) for job in jobs(scans)]
    assert [isinstance(entry, Entry) for entry in whole] == [True] * 3 + [False] * 3
    results = store.prepare(jobs(scans, log))
    assert logged(log) == {f"{number}.nii.gz": 2 if number == 3 else 1 for number in range(6)}
    for result in results:
        result.verify()


@pytest.mark.parametrize("step", ["draft of the voxels", "voxels without a line", "draft of the line"])
def test_what_a_kill_leaves_behind_is_made_again(scans, store, step):
    """The three states that a process which dies while it writes can leave."""
    job = jobs(scans)[0]
    (entry,) = store.prepare([job])
    voxels, line = entry.path.read_bytes(), entry.path.with_suffix(".json")
    kept = line.read_bytes()
    line.unlink()
    if step == "draft of the voxels":
        entry.path.rename(entry.path.with_name(f".{entry.path.name}"))
        entry.path.with_name(f".{entry.path.name}").write_bytes(voxels[:1000])
    elif step == "voxels without a line":
        entry.path.write_bytes(voxels[:1000])
    else:
        entry.path.with_name(f".{line.name}").write_bytes(kept[:20])
    (again,) = VolumeStore(store.root, PLAN).prepare([job])
    assert again == entry
    assert again.path.read_bytes() == voxels
    assert sorted(file.name for file in store.folder.iterdir()) == sorted([entry.path.name, line.name])


def test_processes_at_once_do_the_work_once(scans, store, tmp_path):
    log = tmp_path / "log"
    processes = [start(scans, store.root, log, 0.3) for _ in range(2)]
    wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == 2)
    (tmp_path / "go").touch()
    assert [process.wait() for process in processes] == [0, 0]
    assert logged(log) == {f"{number}.nii.gz": 1 for number in range(6)}
    workers = {line.split()[1] for line in log.read_text().splitlines()}
    assert len(workers) == 2, "both took part"
    assert all(isinstance(store.find(job.key), Entry) for job in jobs(scans))


def test_a_cut_file_of_the_store_is_made_again(scans, store):
    entry = store.prepare(jobs(scans)[:1])[0]
    entry.path.write_bytes(entry.path.read_bytes()[:-2])
    assert store.find(jobs(scans)[0].key) is None
    (again,) = VolumeStore(store.root, PLAN).prepare(jobs(scans)[:1])
    again.verify()


def test_a_changed_byte_is_found(scans, store):
    entry = store.prepare(jobs(scans)[:1])[0]
    raw = bytearray(entry.path.read_bytes())
    raw[-50] ^= 1
    entry.path.write_bytes(raw)
    with pytest.raises(OSError, match="damaged: its voxels do not fit their hash"):
        entry.verify()


def test_another_plan_and_another_file_are_other_volumes(scans, store):
    key = jobs(scans)[0].key
    store.prepare(jobs(scans)[:1])
    other = VolumeStore(store.root, VolumePlan((10.0, 8.0, 8.0), crop="body"))
    assert other.folder != store.folder
    assert other.find(key) is None
    chest(scans / "0.nii.gz", seed=9, shape=SHAPE, spacing=(10.0, 8.0, 8.0))
    assert jobs(scans)[0].key != key
    assert key_of([scans / "0.nii.gz"], "header") != key_of([scans / "0.nii.gz"])


def test_a_reason_is_remembered_and_a_disk_error_is_not(scans, store, tmp_path):
    def broken():
        raise UnreadableImage("it is broken")

    def away():
        raise OSError(5, "Input/output error")

    results = store.prepare([Job("a" * 24, broken), Job("b" * 24, away)])
    assert results == ["it is broken", "the file cannot be read: Input/output error"]
    assert store.find("a" * 24) == "it is broken"
    assert store.find("b" * 24) is None


def test_the_line_of_a_volume_names_no_patient_and_no_path(tmp_path, store):
    path = save(tmp_path / "PATIENT-0815" / "DOE_JOHN.nii.gz", Volume(body(), affine()))
    (entry,) = store.prepare([Job(key_of([path]), lambda: read_volume(path))])
    text = entry.path.with_suffix(".json").read_text() + entry.path.name
    assert "0815" not in text
    assert "DOE" not in text
    assert json.loads(entry.path.with_suffix(".json").read_text())["plan"] == PLAN.digest


@pytest.mark.parametrize(
    ("start", "size"),
    [
        ((0, 0, 0), SHAPE),
        ((3, 4, 5), (6, 7, 8)),
        ((-3, 20, 30), (10, 20, 8)),
        ((-50, 0, 0), (5, 5, 5)),
        ((40, 50, 60), (4, 4, 4)),
        ((-2, -2, -2), (40, 40, 40)),
    ],
)
def test_crops_are_cut_from_the_whole(scans, store, start, size):
    (entry,) = store.prepare(jobs(scans)[:1])
    padded = np.pad(entry.voxels(), 100, constant_values=-1024)
    wanted = padded[tuple(slice(a + 100, a + 100 + n) for a, n in zip(start, size, strict=True))]
    found = entry.crop(start, size, -1024)
    assert found.dtype == torch.int16
    assert np.array_equal(found.numpy(), wanted)
    found += 1
    assert np.array_equal(entry.crop(start, size, -1024).numpy(), wanted), "a crop is a copy"


def test_a_crop_reads_its_rows_and_no_others(tmp_path):
    """Counted in pages of the mapping, after the file has been dropped from the page cache."""
    path = tmp_path / "large.npy"
    np.save(path, np.zeros((200, 256, 256), np.int16))
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    entry = Entry(path, (200, 256, 256), (), "")
    before = mapped(path)
    entry.crop((100, 100, 100), (8, 16, 16), 0)
    touched = mapped(path) - before
    assert 0 < touched < 0.3 * path.stat().st_size / 1024


def mapped(path):
    """KiB of a file that this process has in memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


def test_a_budget_that_is_too_small_is_named(scans, tmp_path):
    small = VolumeStore(tmp_path / "store", PLAN, budget=2 * 24 * 28 * 32 * 3 / 2**30)
    with pytest.raises(StoreFull, match=r"take at least 0\.0 GiB, the budget is .*; raise `budget`"):
        small.prepare(jobs(scans))
    planned = VolumeStore(tmp_path / "store", VolumePlan((10.0, 8.0, 8.0), SHAPE), budget=2 * 24 * 28 * 32 * 3 / 2**30)
    with pytest.raises(StoreFull, match="take at least"):
        planned.prepare(jobs(scans))
    assert not list(planned.folder.glob("*.npy")), "a size that is known is asked before anything is read"


def test_what_nobody_used_for_long_makes_room(scans, tmp_path):
    room = VolumeStore(tmp_path / "store", PLAN, budget=2 * 24 * 28 * 32 * 4.2 / 2**30)
    old = room.prepare(jobs(scans)[:3])
    for entry, days in zip(old, (3, 2, 0), strict=True):
        os.utime(entry.path, (time.time() - days * 86400 - 60,) * 2)
    room.prepare(jobs(scans)[3:5])
    assert [entry.path.exists() for entry in old] == [False, True, True]
    assert not old[0].path.with_suffix(".json").exists()
    with pytest.raises(StoreFull, match="used today"):
        VolumeStore(room.root, VolumePlan((10.0, 8.0, 8.1)), budget=2 * 24 * 28 * 32 * 4.2 / 2**30).prepare(
            jobs(scans)[:4]
        )


def test_stores_and_volumes_can_be_sent_to_workers(scans, store):
    (entry,) = store.prepare(jobs(scans)[:1])
    assert copy.copy(store).find(jobs(scans)[0].key) == entry
    assert len(pickle.dumps(store)) + len(pickle.dumps(entry)) < 4000


def test_another_process_may_rename_its_draft_while_volumes_are_listed(scans, store):
    store.folder.mkdir(parents=True)
    # A link that leads nowhere is listed and has no size, as a draft that was renamed in between.
    (store.folder / ".draft.npy").symlink_to(store.folder / "gone.npy")
    assert all(isinstance(one, Entry) for one in store.prepare(jobs(scans)[:2]))


def test_a_budget_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="budget is 0 GiB; it must be positive"):
        VolumeStore(tmp_path, PLAN, budget=0)
