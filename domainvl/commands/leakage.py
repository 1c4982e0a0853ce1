"""`leakage RECIPE [RECIPE ...]`: what splits of a data set share, or what it shares with data learned from before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from domainvl import recipes
from domainvl.console.arguments import COMMON, Arguments, Option, split
from domainvl.console.shadow import check_shadowing
from domainvl.errors import CommandError

if TYPE_CHECKING:
    from domainvl.data.module import DataModule
    from domainvl.data.preset import Preset

_OPTIONS = {
    "--output": Option("FILE", "write up to 20 pairs of ids of each kind that is shared, as CSV"),
    "--allow-import": COMMON["--allow-import"],
}
_SEE = "python -m domainvl leakage --help"
_PAGE = """\
usage: python -m domainvl leakage RECIPE [RECIPE ...] [--output FILE]

Look for patients, images (renamed, re-encoded, resized, cropped, turned) and texts that splits share.

With one recipe the splits of its data set are compared with each other. Unlike elsewhere, several recipes are several
data sets: the test split of the first is compared with the training split of each other, say of what was used for
pretraining. Images are prepared for the backbone of the first. Nothing is trained.

options:
{options}

The exit status is 1 where images or patients are shared, 0 where none are.

examples:
  python -m domainvl leakage recipes/satellite-retrieval.yaml
  python -m domainvl leakage rsicd.yaml rsitmd.yaml --output shared.csv
"""
_GIB = 0.5


def main(words: list[str]) -> int:
    """Run `leakage`."""
    arguments = split("leakage", words, _OPTIONS)
    if arguments.help is not None:
        rows = "\n".join(f"  {f'{name} {option.value}':22s}  {option.text}" for name, option in _OPTIONS.items())
        print(_PAGE.format(options=rows), end="")
        return 0
    if not arguments.recipes:
        raise CommandError("leakage needs a recipe, e.g. python -m domainvl leakage recipes/satellite.yaml", see=_SEE)
    stems = [path.stem for path in arguments.recipes]
    if len(set(stems)) < len(stems):
        raise CommandError(f"recipes are told apart by their names, got {', '.join(stems)}", see=_SEE)
    if arguments.overrides and len(stems) > 1:
        todo = "write them into the files; `base: FILE` takes the rest of a recipe over"
        raise CommandError("leakage takes keys of the recipe with one recipe alone", todo=todo, see=_SEE)
    if arguments.print_config:
        raise CommandError("--print_config shows one recipe; give it to fit", see="python -m domainvl fit --help")
    check_shadowing()
    return _compare(arguments, stems)


def _compare(arguments: Arguments, names: Sequence[str]) -> int:
    from domainvl.console.session import clear_errors
    from domainvl.evaluation.alignment_files import write_shared
    from domainvl.tasks.leakage import leakage_between, leakage_of

    with clear_errors():
        first, preset = _data(arguments, arguments.recipes[0], None)
        if len(names) == 1:
            own = leakage_of(first, _GIB)
            if own is None:
                raise CommandError(f"leakage: {first.manifest.name} has one split; there is nothing to compare it with")
            found = [own]
        else:
            others = [(path.stem, _data(arguments, path, preset)[0]) for path in arguments.recipes[1:]]
            found = [leakage_between(other, (names[0], first), _GIB) for other in others]
    for leakage in found:
        print("\n".join(leakage.notes()))
    output = arguments.option("--output")
    if output is not None:
        write_shared(output, found)
        print(output)
    return 1 if any(leakage.leaks for leakage in found) else 0


def _data(arguments: Arguments, path: Path, preset: Preset | None) -> tuple[DataModule, Preset]:
    """The data set of a recipe; without a preset the recipe's backbone says how images are prepared."""
    from domainvl.console.session import open_session
    from domainvl.data.module import DataModule
    from domainvl.data.preset import Preset
    from domainvl.tasks.base import Task

    session = open_session("leakage", arguments, recipes.switch_classes(recipes.load([path]), arguments.overrides))
    if session is None:
        raise RuntimeError("leakage: the session asked for help")
    session.without("adapter", "objectives", "optimizer", "schedule")
    module, data, _ = session.build()
    if not isinstance(module, Task) or not isinstance(data, DataModule):
        names = f"{type(module).__name__} and {type(data).__name__}"
        raise CommandError(f"leakage takes a task and a data module of domainvl, got {names}")
    chosen = module.preset if preset is None else preset
    if not isinstance(chosen, Preset):
        raise CommandError(f"leakage: {type(data).__name__} holds no pictures, and only pictures are compared by looks")
    data.prepare_as(chosen)
    return data, chosen
