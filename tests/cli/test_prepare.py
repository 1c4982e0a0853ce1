"""`prepare`: all volumes of a recipe, once, whatever is killed meanwhile."""

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from domainvl.cli import main
from domainvl.samples import write

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def words(toy):
    write("ct", toy / "scans", patients=30)
    recipe = str(RECIPES / "ct.yaml")
    return ["prepare", recipe, "--data.root", "scans", "--data.preparation.folder", "store", "--run-dir", "run"]


def lines():
    """What the store says of finished volumes, and when it was written."""
    return {path.name: path.stat().st_mtime_ns for path in Path("store").glob("*/[!.]*.json")}


@pytest.mark.slow
def test_a_killed_prepare_goes_on_where_it_was(words, environment, capsys):
    with (Path("scans") / "studies.csv").open() as file:
        count = len(list(csv.DictReader(file)))
    command = [sys.executable, "-m", "domainvl", *words, "--data.loading.workers", "1"]
    process = subprocess.Popen(command, env=environment)
    until = time.monotonic() + 120
    while len(lines()) < 3 and time.monotonic() < until:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = lines()
    assert 3 <= len(kept) < count
    assert len(list(Path("store").glob("*/*.npy"))) <= len(kept) + 1, "one volume was in hand"

    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{count} prepared, 0 cannot be used"
    assert len(lines()) == count
    assert {name: lines()[name] for name in kept} == kept
    assert not Path("run").exists(), "there is nothing to keep but the store"


def test_what_cannot_be_used_is_listed(words, capsys):
    broken = next(Path("scans").rglob("*.nii.gz"))
    broken.write_bytes(broken.read_bytes()[:500])
    assert main([*words, "--data.loading.reject_share", "0.5"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.endswith("prepared, 1 cannot be used: run/rejects.csv")
    with Path("run/rejects.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (Path("scans") / row["path"], row["reason"]) == (broken, "the gzip stream is cut short")
    words[-1] = "again"
    assert main([*words, "--data.loading.reject_share", "0"]) == 1
    assert "rows cannot be used, more than the 0 that reject_share allows" in capsys.readouterr().err


def test_a_data_set_without_a_store_says_so(toy, capsys):
    assert main(["prepare", str(RECIPES / "cxr.yaml")]) == 1
    assert "ChestXrays reads its files as they are, so there is nothing to prepare" in capsys.readouterr().err
