"""The benchmark of contrastive losses runs, and its sides agree."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_side_is_measured_and_agrees():
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    script = [sys.executable, str(ROOT / "examples" / "benchmarks" / "contrast.py")]
    few = ["--batch", "48", "--width", "16", "--rounds", "1"]
    done = subprocess.run(
        [*script, *few], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, timeout=120
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("plain", "open_clip", "tiled"))]
    assert len(rows) == 7
    assert all(float(row[-1]) < 1e-5 for row in rows)
