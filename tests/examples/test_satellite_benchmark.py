"""The benchmark of satellite tiles runs, with or without torchgeo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_our_sides_run_and_what_is_left_out_is_named():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    script = ROOT / "examples" / "benchmarks" / "satellite.py"
    command = [sys.executable, str(script), "--rounds", "1", "--tiles", "32", "--side", "1024"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [line.split("  ")[0] for line in done.stdout.splitlines()]
    assert {"ours, training order", "ours, evaluation order"} <= set(rows)
    left_out = any(row.startswith("not installed") and "torchgeo" in row for row in rows)
    assert left_out != any(row.startswith("torchgeo RandomGeoSampler") for row in rows)
