"""`embed`: features of images and texts with an adapter, or of what a recipe reads, ahead of training."""

from __future__ import annotations

from domainvl.console.arguments import COMMON, Option, help_text, read_recipes, split
from domainvl.console.many import MANY, check, help_of, takes_recipe

_OF_RECIPES = {"--allow-import": COMMON["--allow-import"]}
_OF_MANY = {
    **MANY,
    "--output": Option("FILE", "where the features go, .npy"),
    "--text-column": Option("NAME", "column of a table that holds texts, to embed these"),
    "--half": Option("", "write 16-bit numbers (default: 32)"),
}
_MANY = """\
Write what the adapted model makes of images or texts, features of unit length: FILE is an array [N, D] for
numpy.load(FILE, mmap_mode="r"), a .csv beside it says what its rows are, a .json which adapter, model and source they
are of. SOURCE is a folder of images; a table with a column of paths (.csv, .tsv, also .gz) or, with --text-column, of
texts; or a .txt file with a text in each line. Of texts the row and a hash are written, never the text. What cannot be
read is listed in FILE's .rejects.csv. Killed at any moment, the same command goes on where it was."""
_SUMMARY = """\
Embed everything that a recipe's data holds by the recipe's image tower, once: the slides of recipes/slides.yaml. `fit`
would do the same for what it needs; ahead of it, it can run on many machines at once, and be killed: the same command
goes on where it was."""


def main(words: list[str]) -> int:
    """Run `embed`."""
    arguments = split("embed", words, _OF_MANY)
    if arguments.help == "":
        print(help_of("embed", _MANY, _OF_MANY))
        print("or " + help_text("embed", _SUMMARY, _OF_RECIPES))
        return 0
    if not takes_recipe("embed", arguments, _OF_RECIPES, _OF_MANY):
        check("embed", arguments, (".npy",))
        from domainvl.commands.passing import embed as embed_many

        return embed_many(arguments)
    recipe = read_recipes("embed", arguments)
    from domainvl.commands.embedding import embed

    return embed(arguments, recipe)
