"""The heavy half of `fit`."""

from __future__ import annotations

import shlex
import signal
import sys
from typing import Any

from domainvl.console.arguments import Arguments
from domainvl.console.callbacks import LastCheckpoint, Results
from domainvl.console.facts import Facts
from domainvl.console.session import Session, clear_errors, make_trainer, open_session
from domainvl.console.signals import Interrupted, interruptible
from domainvl.errors import CommandError
from domainvl.runs import Run, claim


def fit(arguments: Arguments, recipe: dict[str, Any], resumed: Run | None) -> int:
    """Check the recipe, then train and test.

    Args:
        arguments: The command line.
        recipe: The merged recipe.
        resumed: The run that goes on; None for a new one.
    """
    session = open_session("fit", arguments, recipe)
    if session is None:
        return 0
    trainer = session.config.trainer
    if trainer.max_epochs is None and trainer.max_time is None and trainer.max_steps == -1:
        see = "python -m domainvl fit --help Trainer"
        raise CommandError("trainer.max_epochs is missing; say how long to train", see=see)
    run = resumed or claim(arguments.option("--run-dir"), arguments.recipes[0])
    with clear_errors():
        return _fit(session, run, arguments)


def _fit(session: Session, run: Run, arguments: Arguments) -> int:
    checkpoint = run.checkpoint
    fresh = not run.config.exists()
    trainer = None
    try:
        with interruptible():
            module, data, settings = session.build()
            recipe = session.text()
            facts = Facts(run)
            results = Results(run, seed=session.seed, stage="test", recipe=recipe, facts=facts, save_adapter=True)
            trainer = make_trainer(settings, run, [LastCheckpoint(checkpoint), facts, results])
            if trainer.is_global_zero and (fresh or arguments.overrides):
                run.write_config(recipe)
            start = checkpoint if checkpoint.exists() else None
            trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
            # Under ddp_spawn this process never saw the trained weights, so all processes read them back.
            end = checkpoint if checkpoint.exists() else None
            trainer.test(module, datamodule=data, ckpt_path=end, weights_only=True, verbose=False)
    except Interrupted as stop:
        if trainer is None or trainer.is_global_zero:
            _say_how_to_resume(stop, run, arguments)
        if trainer is not None and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGKILL)
        return stop.status
    except BaseException:
        if fresh:
            run.discard_if_unused()
        raise
    if trainer.is_global_zero:
        run.announce()
    return 0


def _say_how_to_resume(stop: Interrupted, run: Run, arguments: Arguments) -> None:
    words = ["python", "-m", "domainvl", "fit", "--resume", str(run.folder)]
    for package in arguments.options.get("--allow-import", ()):
        words += ["--allow-import", package]
    kept = "the last finished epoch is kept" if run.checkpoint.exists() else "no epoch was finished yet"
    if not run.config.exists():
        run.discard_if_unused()
        print(f"\nstopped by {stop} before the run began", file=sys.stderr)
        return
    print(f"\nstopped by {stop}; {kept}\nresume: {shlex.join(words)}", file=sys.stderr, flush=True)
