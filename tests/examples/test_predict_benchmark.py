"""The benchmark of `predict` over many images runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--images", "200", "--kills", "0"], ["every image once: True", "as the untouched pass: True"]),
        (["--costs", "--rounds", "1"], ["tower and scores", "journal", "images/s on one thread"]),
    ],
    ids=["passes", "costs"],
)
def test_it_runs(words, says):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(ROOT / "examples" / "benchmarks" / "predict_many.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert all(text in done.stdout for text in says), done.stdout
