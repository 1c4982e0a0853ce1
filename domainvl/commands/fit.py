"""`fit RECIPE`: train, then test beside zero-shot; `fit --resume RUN` goes on where a run was interrupted."""

from __future__ import annotations

from pathlib import Path

from domainvl.console.arguments import COMMON, Arguments, Option, help_text, read_recipes, split
from domainvl.errors import CommandError
from domainvl.runs import Run

_OPTIONS = {
    **COMMON,
    "--resume": Option("RUN", "go on with an interrupted run; keys of trainer may be changed, nothing else"),
}
_SUMMARY = "Adapt a model to labelled images, then measure it on the test split beside the untouched model (zero-shot)."
_SEE = "python -m domainvl fit --help"


def main(words: list[str]) -> int:
    """Run `fit`."""
    arguments = split("fit", words, _OPTIONS)
    if arguments.help == "":
        print(help_text("fit", _SUMMARY, _OPTIONS))
        return 0
    resumed = _resumed(arguments)
    if resumed is not None and resumed.metrics.exists():
        print(f"this run is finished; nothing was changed\nrun folder: {resumed.folder}")
        return 0
    recipe = read_recipes("fit", arguments)
    # Everything above answers at once; torch and lightning take seconds.
    from domainvl.commands.training import fit

    return fit(arguments, recipe, resumed)


def _resumed(arguments: Arguments) -> Run | None:
    """The interrupted run, whose own config becomes the recipe."""
    folder = arguments.option("--resume")
    if folder is None:
        return None
    run = Run(Path(folder))
    if not run.config.exists():
        raise CommandError(f"--resume {folder}: there is no config.yaml, so it is no run folder", see=_SEE)
    if arguments.recipes or "--run-dir" in arguments.options:
        extra = arguments.recipes[0] if arguments.recipes else "--run-dir"
        raise CommandError(f"--resume takes recipe and folder from {folder}; take {extra} out", see=_SEE)
    foreign = [key for key in arguments.overrides if not key.startswith("trainer.")]
    if foreign:
        raise CommandError(
            f"--resume: {foreign[0]} cannot be changed half-way, only keys of trainer can",
            todo=f"start a new run: python -m domainvl fit {run.config} --{foreign[0]} ...",
        )
    arguments.recipes.append(run.config)
    return run
