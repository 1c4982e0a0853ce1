"""The benchmark against the authors' code runs, here without their code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "benchmarks" / "fewshot.py"


def run(*arguments):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.slow
def test_all_sides_take_turns_and_agree():
    few = ["--tiny", "--methods", "MMRL++", "--classes", "12", "--epochs", "1", "--steps", "2"]
    done = run(*few, "--speeds", "plain", "exact", "cached", "--together", "3")
    assert done.returncode == 0, done.stderr
    rows = {line[:12].strip(): line.split() for line in done.stdout.splitlines()}
    assert {"plain", "exact", "cached"} <= set(rows)
    assert float(rows["plain"][3].rstrip("x")) == 1.0
    for name in ("exact", "cached"):
        assert float(rows[name][-2]) < 1e-4, rows[name]


def test_a_checkout_is_asked_for_by_name(tmp_path):
    done = run("--reference", str(tmp_path))
    assert done.returncode == 2
    assert "trainers/mmrl.py" in done.stderr
