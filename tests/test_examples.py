"""Examples run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("adapt_in_python.py", ["--epochs", "2", "--shots", "1"], "AUROC, mean"),
        ("use_an_adapter.py", ["--epochs", "1", "--shots", "1"], "cosines with class names"),
    ],
)
def test_an_example_runs(name, words, said):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / name), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
