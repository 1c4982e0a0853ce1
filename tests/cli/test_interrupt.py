"""Ctrl-C and SIGTERM in processes of their own, and several processes."""

import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_fit import ALLOW, same, weights

from domainvl.console.signals import Interrupted, hold, interruptible, release

FIT = [sys.executable, "-u", "-m", "domainvl", "fit"]
RECIPES = Path(__file__).parents[2] / "recipes"
TOY = ["toy.yaml", *ALLOW, "--trainer.max_epochs", "5", "--model.slow", "0.15"]
# Dropout and augmentation draw random numbers, so a wrong resume shows.
REAL = [str(RECIPES / "cxr-lora.yaml"), "--trainer.max_epochs", "10", "--trainer.check_val_every_n_epoch", "3"]


def finished(words, environment):
    """What a run said that nobody disturbed."""
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def interrupted(words, environment, number):
    """Start a run, send it a signal in its third epoch, give back its exit status and what it said."""
    process = subprocess.Popen(
        [*FIT, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            break
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    return process.returncode, error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "number", "status"),
    [(TOY, signal.SIGINT, 130), (TOY, signal.SIGTERM, 143), (REAL, signal.SIGINT, 130)],
    ids=["toy-SIGINT", "toy-SIGTERM", "lora-SIGINT"],
)
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(recipe, number, status, toy, environment):
    code, error = interrupted([*recipe, "--run-dir", "cut"], environment, number)
    assert code == status, error
    assert f"stopped by {number.name}; the last finished epoch is kept" in error
    assert "Traceback" not in error
    assert Path("cut/rejects.csv").exists()
    assert Path("cut/log.csv").exists()
    assert not Path("cut/metrics.json").exists()
    # The command that it prints is the one that works.
    command = error.splitlines()[-1]
    assert command.startswith("resume: python -m domainvl fit --resume cut")
    resumed = finished([sys.executable, *shlex.split(command)[2:]], environment)
    assert not resumed.splitlines()[1].startswith("epoch 1/")
    finished([*FIT, *recipe, "--run-dir", "whole"], environment)
    assert same(weights("cut"), weights("whole"))
    for name in ("predictions.csv", "log.csv"):
        assert Path("cut", name).read_text() == Path("whole", name).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_two_processes_write_one_run(strategy, toy, environment):
    words = ["toy.yaml", *ALLOW, "--trainer.max_epochs", "1", "--trainer.devices", "2", "--trainer.strategy", strategy]
    said = finished([*FIT, *words], environment)
    assert said.splitlines()[-1] == "run folder: runs/toy/1"
    assert said.count("epoch 1/1") == 1
    assert said.count("run folder") == 1
    assert [place.name for place in Path("runs/toy").iterdir()] == ["1"]
    assert Path("runs/toy/1/metrics.json").exists()


def signalled(seen, *numbers):
    with interruptible():
        hold()
        for number in numbers:
            signal.raise_signal(number)
            seen.append("held")
        release()
        seen.append("released")


def test_a_signal_waits_for_what_belongs_together():
    seen = []
    with pytest.raises(Interrupted) as stop:
        signalled(seen, signal.SIGTERM)
    assert seen == ["held"]
    assert stop.value.status == 143


def test_a_second_signal_does_not_wait():
    seen = []
    with pytest.raises(Interrupted):
        signalled(seen, signal.SIGINT, signal.SIGINT)
    assert seen == ["held"]


def test_no_signal_changes_nothing():
    seen = []
    signalled(seen)
    assert seen == ["released"]
