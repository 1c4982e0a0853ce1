"""The benchmark of slides runs, with whichever libraries are there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_side_runs_and_what_is_left_out_is_named():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(ROOT / "examples" / "benchmarks" / "slides.py"), "--tiny", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [line.split("  ")[0] for line in done.stdout.splitlines()]
    assert rows.count("ours") == 3
    assert rows.count("OpenSlide, slice") == 2
    left_out = any(line.startswith("not installed") and "cv2" in line for line in done.stdout.splitlines())
    assert left_out != ("OpenSlide, OpenCV area" in rows)
    assert sum("MiB" in line for line in done.stdout.splitlines()) == 1
