"""Ctrl-C and SIGTERM in processes of their own, and several processes."""

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_fit import ALLOW, same, weights

COMMAND = [sys.executable, "-u", "-m", "domainvl", "fit", "toy.yaml", *ALLOW, "--trainer.max_epochs", "5"]


def interrupted(folder, environment, number, *words):
    """Start a run, send it a signal in its third epoch, give back its exit status and what it said."""
    process = subprocess.Popen(
        [*COMMAND, "--model.slow", "0.15", "--run-dir", str(folder), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            break
    time.sleep(0.3)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    return process.returncode, error


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(number, status, toy, environment):
    code, error = interrupted("cut", environment, number)
    assert code == status
    assert f"stopped by {number.name}; the last finished epoch is kept" in error
    assert "Traceback" not in error
    assert Path("cut/rejects.csv").exists()
    assert Path("cut/log.csv").exists()
    assert not Path("cut/metrics.json").exists()
    # The command that it prints is the one that works.
    command = error.splitlines()[-1].removeprefix("resume: python ")
    assert command == "-m domainvl fit --resume cut --allow-import toy_cli"
    resumed = subprocess.run(
        [sys.executable, *shlex.split(command)], env=environment, capture_output=True, text=True, check=True
    )
    assert resumed.stdout.splitlines()[1].startswith("epoch 3/5")
    whole = subprocess.run(
        [*COMMAND, "--run-dir", "whole"], env=environment, capture_output=True, text=True, check=True
    )
    assert not whole.stderr
    assert same(weights("cut"), weights("whole"))
    for name in ("predictions.csv", "log.csv"):
        assert Path("cut", name).read_text() == Path("whole", name).read_text()


@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_two_processes_write_one_run(strategy, toy, environment):
    words = ["--trainer.devices", "2", "--trainer.strategy", strategy, "--trainer.max_epochs", "1"]
    done = subprocess.run([*COMMAND[:-2], *words], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "run folder: runs/toy/1"
    assert done.stdout.count("epoch 1/1") == 1
    assert done.stdout.count("run folder") == 1
    assert [place.name for place in Path("runs/toy").iterdir()] == ["1"]
    assert Path("runs/toy/1/metrics.json").exists()
