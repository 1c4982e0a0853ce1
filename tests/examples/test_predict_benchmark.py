"""The benchmark of `predict` over many images runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_passes_and_costs():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    script = ROOT / "examples" / "benchmarks" / "predict_many.py"
    command = [sys.executable, str(script), "--images", "96", "--kills", "0", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    for text in ("every image once: True", "normalise and tower", "images/s on one thread"):
        assert text in done.stdout
