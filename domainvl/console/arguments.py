"""Splits a verb's command line into recipes, the verb's own options and `--key value` overrides of the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domainvl import recipes
from domainvl.console.shadow import check_shadowing
from domainvl.errors import CommandError, near

RECIPE_SUFFIXES = (".json", ".yaml", ".yml")


@dataclass(frozen=True)
class Option:
    """An option of a verb, not of the recipe.

    Attributes:
        value: What the value is called in the help; empty for a switch, which takes none.
        text: One line of help.
        repeats: Whether it may be given several times.
        many: Whether it takes every word up to the next option.
    """

    value: str
    text: str
    repeats: bool = False
    many: bool = False


COMMON = {
    "--run-dir": Option("DIR", "where results go (default: runs/<recipe>/<next number>)"),
    "--allow-import": Option("PACKAGE", "let the recipe name classes of this package; repeatable", repeats=True),
}
"""Options of every verb that takes a recipe."""


ADAPTER = {"--adapter": Option("FOLDER", "a saved adapter, RUN/adapter of an earlier fit (default: zero-shot)")}
"""The option of verbs that use what was learned."""


@dataclass
class Arguments:
    """A split command line.

    Attributes:
        recipes: The recipe files, in order.
        options: Values of the verb's own options, by name with dashes.
        overrides: Recipe keys to values, both as written, in order.
        help: What help was asked for: "" for the verb, or a class name; None for none.
        print_config: Whether the resolved recipe is wanted instead of a run.
    """

    recipes: list[Path] = field(default_factory=list)
    options: dict[str, list[str]] = field(default_factory=dict)
    overrides: dict[str, str] = field(default_factory=dict)
    help: str | None = None
    print_config: bool = False

    def option(self, name: str) -> str | None:
        """The value of an option that is given once."""
        values = self.options.get(name)
        return values[-1] if values else None


def split(verb: str, words: Sequence[str], options: Mapping[str, Option]) -> Arguments:
    """Split a command line; recipes may stand anywhere in it.

    Args:
        verb: For error messages.
        words: The words after the verb.
        options: The verb's own options.
    """
    see = f"python -m domainvl {verb} --help"
    result = Arguments()
    queue = list(words)
    while queue:
        word = queue.pop(0)
        name, has_value, value = word.partition("=")
        if not word.startswith("-"):
            result.recipes.append(Path(word))
        elif name in ("-h", "--help"):
            takes = bool(queue) and not queue[0].startswith("-") and not queue[0].endswith(RECIPE_SUFFIXES)
            result.help = value or (queue.pop(0) if takes else "")
        elif name == "--print_config" and not has_value:
            result.print_config = True
        elif not name.startswith("--") or len(name) == 2:
            raise CommandError(f"{word!r} is no option; options start with two dashes and a name", see=see)
        else:
            if name in options and not options[name].value:
                if has_value:
                    raise CommandError(f"{name} takes no value", see=see)
                value = name
            elif not has_value:
                if not queue or queue[0].startswith("--"):
                    raise CommandError(f"{name} needs a value", see=see)
                value = queue.pop(0)
            _take(result, name, value, options, see)
            while name in options and options[name].many and queue and not queue[0].startswith("-"):
                result.options[name].append(queue.pop(0))
    return result


def read_recipes(verb: str, arguments: Arguments) -> dict[str, Any]:
    """The merged recipe of a command line; none is needed to ask for the help of a class."""
    if not arguments.recipes and arguments.help is None:
        raise CommandError(
            f"{verb} needs a recipe, e.g. python -m domainvl {verb} recipes/cxr.yaml",
            see=f"python -m domainvl {verb} --help",
        )
    check_shadowing()
    return recipes.switch_classes(recipes.load(arguments.recipes), arguments.overrides)


def help_text(verb: str, summary: str, options: Mapping[str, Option]) -> str:
    """The page that `VERB --help` prints; nothing has to be imported for it."""
    rows = [(f"{name} {option.value}".rstrip(), option.text) for name, option in options.items()]
    rows += [
        ("--print_config", "print the resolved recipe, every default included, and stop"),
        ("--help [CLASS]", "this page, or all settings of a class: Trainer, LoRA, AdamW, ChestXrays ..."),
    ]
    width = max(len(left) for left, _ in rows)
    lines = "\n".join(f"  {left:{width}s}  {text}" for left, text in rows)
    return (
        f"usage: python -m domainvl {verb} RECIPE [RECIPE ...] [--key value ...]\n\n{summary}\n\n"
        "Several recipes are merged, the later one wins; inside a recipe `base: other.yaml` does the same.\n\n"
        f"options:\n{lines}\n\n"
        "keys of the recipe, each with --key value or --key=value:\n"
        "  --seed_everything 1            seed of everything random\n"
        "  --model.adapter LoRA           exchange a class (null: none)\n"
        "  --model.adapter.rank 4         a setting of a class, without the init_args of the recipe\n"
        "  --model.objectives.ce.weight 2 a setting of one entry of a map (--model.objectives.ce null: without it)\n"
        "  --data.shots 4\n"
        "  --trainer.max_epochs 1         any argument of Lightning's Trainer\n"
    )


def _take(result: Arguments, name: str, value: str, options: Mapping[str, Option], see: str) -> None:
    if name not in options:
        key = name.removeprefix("--")
        # Every key of a recipe but the seed has a dot or is one of these; the rest is a mistyped option.
        if "." not in key and key not in ("seed_everything", "model", "data", "trainer"):
            known = [*options, "--seed_everything", "--model", "--data", "--trainer", "--print_config", "--help"]
            raise CommandError(f"unknown option {name}", meant=near(name, known), see=see)
        result.overrides.pop(key, None)  # a repeated key counts where it is written last
        result.overrides[key] = value
        return
    if name in result.options and not options[name].repeats:
        raise CommandError(f"{name} is given twice", see=see)
    result.options.setdefault(name, []).append(value)
