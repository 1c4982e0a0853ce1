"""`embed RECIPE`: make the features that a recipe reads, ahead of training."""

from __future__ import annotations

from domainvl.console.arguments import COMMON, help_text, read_recipes, split

_OPTIONS = {"--allow-import": COMMON["--allow-import"]}
_SUMMARY = """\
Embed everything that a recipe's data holds by the recipe's image tower, once. `fit` would do the same for what it
needs; ahead of it, it can run on many machines at once, and be killed: the same command goes on where it was."""


def main(words: list[str]) -> int:
    """Run `embed`."""
    arguments = split("embed", words, _OPTIONS)
    if arguments.help == "":
        print(help_text("embed", _SUMMARY, _OPTIONS))
        return 0
    recipe = read_recipes("embed", arguments)
    from domainvl.commands.embedding import embed

    return embed(arguments, recipe)
