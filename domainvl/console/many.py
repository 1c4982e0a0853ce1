"""What `predict` and `embed` share when they are given a run or an adapter, and a source in place of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from domainvl.console.arguments import COMMON, RECIPE_SUFFIXES, Arguments, Option
from domainvl.errors import CommandError, near

MANY = {
    "--output": Option("FILE", "where the rows go"),
    "--image-column": Option("NAME", "column of a table that names the images (default: image or path)"),
    "--root": Option("DIR", "folder that a table's paths are relative to (default: the table's own)"),
    "--workers": Option("N", "processes that read images (default: one per core, four at most)"),
    "--allow-import": COMMON["--allow-import"],
}
"""Options beside those of the verb."""


def takes_recipe(
    verb: str, arguments: Arguments, of_recipes: Mapping[str, Option], of_many: Mapping[str, Option]
) -> bool:
    """Whether a recipe was given, and not a run or an adapter; options of the other way are refused.

    Args:
        verb: For error messages.
        arguments: The command line.
        of_recipes: Options that go with a recipe.
        of_many: Options that go with a run or an adapter.
    """
    words = arguments.recipes
    recipe = arguments.help is not None or not words or words[0].name.endswith(RECIPE_SUFFIXES)
    mine = of_recipes if recipe else of_many
    for name in arguments.options:
        if name not in mine:
            other = "RUN or ADAPTER with a SOURCE" if recipe else "recipe"
            raise CommandError(f"{name} goes with a {other}", see=_see(verb))
    return recipe


def check(verb: str, arguments: Arguments, suffixes: Sequence[str]) -> None:
    """Raise unless the words are a run or an adapter and a source that exists, and the output can be written.

    Args:
        verb: For error messages.
        arguments: The command line.
        suffixes: How the output may end.
    """
    if arguments.overrides:
        raise CommandError(
            f"--{next(iter(arguments.overrides))} is a key of a recipe, and there is none", see=_see(verb)
        )
    if len(arguments.recipes) != 2:
        words = " ".join(map(str, arguments.recipes))
        raise CommandError(f"{verb} takes RUN or ADAPTER, and SOURCE, got {words}", see=_see(verb))
    existing(verb, arguments.recipes[1], "SOURCE")
    output = arguments.option("--output")
    if output is None or not output.endswith(tuple(suffixes)):
        got = "" if output is None else f", got {output}"
        raise CommandError(f"{verb} needs --output FILE that ends in {' or '.join(suffixes)}{got}", see=_see(verb))
    workers = arguments.option("--workers")
    if workers is not None and not workers.isdigit():
        raise CommandError(f"--workers must be a whole number from 0, got {workers!r}", see=_see(verb))


def existing(verb: str, path: Path, what: str) -> None:
    """Raise for a path that does not exist, naming what lies beside it and looks alike."""
    if path.exists():
        return
    beside = [place.name for place in path.parent.iterdir()] if path.parent.is_dir() else []
    meant = [str(path.parent / name) for name in near(path.name, beside)]
    raise CommandError(f"{what}: {path} does not exist", meant=meant, see=_see(verb))


def help_of(verb: str, summary: str, options: Mapping[str, Option]) -> str:
    """The page of the verb without a recipe."""
    rows = [(f"{name} {option.value}".rstrip(), option.text) for name, option in options.items()]
    width = max(len(left) for left, _ in rows)
    lines = "\n".join(f"  {left:{width}s}  {text}" for left, text in rows)
    return f"usage: python -m domainvl {verb} RUN-or-ADAPTER SOURCE --output FILE\n\n{summary}\n\noptions:\n{lines}\n"


def _see(verb: str) -> str:
    return f"python -m domainvl {verb} --help"
