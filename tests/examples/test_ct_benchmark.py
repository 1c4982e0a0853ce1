"""The benchmark of volumes runs, with whichever libraries are there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_our_side_runs_and_what_is_left_out_is_named():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [
        sys.executable,
        str(ROOT / "examples" / "benchmarks" / "ct.py"),
        "--tiny",
        "--rounds",
        "1",
        "--crops",
        "4",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [line.split("  ")[0] for line in done.stdout.splitlines()]
    assert rows.count("ours") == 2
    assert "ours, int16, before its window" in rows
    for library, side in (("nibabel", "MONAI"), ("torchio", "TorchIO")):
        left_out = any(line.startswith("not installed") and library in line for line in done.stdout.splitlines())
        assert left_out != any(row.startswith(side) for row in rows)
