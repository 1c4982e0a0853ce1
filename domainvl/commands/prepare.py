"""`prepare RECIPE`: make what a recipe's data set keeps prepared on disk, and nothing else."""

from __future__ import annotations

import sys
from typing import Any

from domainvl.console.arguments import COMMON, Arguments, help_text, read_recipes, split
from domainvl.errors import CommandError

_SUMMARY = """\
Make all volumes of a recipe's data set as its model takes them, so that no run has to. May be killed and started again,
and run by several processes at once: a volume is made once, by one of them."""


def main(words: list[str]) -> int:
    """Run `prepare`."""
    arguments = split("prepare", words, COMMON)
    if arguments.help == "":
        print(help_text("prepare", _SUMMARY, COMMON))
        return 0
    return _prepare(arguments, read_recipes("prepare", arguments))


def _prepare(arguments: Arguments, recipe: dict[str, Any]) -> int:
    from domainvl.console.session import clear_errors, open_session
    from domainvl.console.signals import Interrupted, interruptible
    from domainvl.data.module import DataModule
    from domainvl.runs import claim
    from domainvl.tasks.base import Task

    session = open_session("prepare", arguments, recipe)
    if session is None:
        return 0
    session.without("adapter", "objectives", "optimizer", "schedule")
    run = claim(arguments.option("--run-dir"), arguments.recipes[0])
    try:
        with clear_errors(), interruptible():
            module, data, _ = session.build()
            if not isinstance(module, Task) or not isinstance(data, DataModule):
                names = f"{type(module).__name__} and {type(data).__name__}"
                raise CommandError(f"prepare takes a task and a data module of domainvl, got {names}")
            data.rejects.path = run.rejects
            count = data.prepare(module.preset)
            data.rejects.flush()
    except Interrupted as stop:
        print(f"\nstopped by {stop}; what is prepared is kept, the same command goes on", file=sys.stderr, flush=True)
        return stop.status
    finally:
        run.discard_if_unused()
    left = len(data.rejects)
    print(f"{count} prepared, {left} cannot be used" + (f": {run.rejects}" if left else ""), flush=True)
    return 0
