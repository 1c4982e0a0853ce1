"""`predict`: class probabilities for images without labels: any number of pictures, or what a recipe reads."""

from __future__ import annotations

from pathlib import Path

from domainvl.console.arguments import ADAPTER, COMMON, Option, help_text, read_recipes, split
from domainvl.console.many import MANY, check, existing, help_of, takes_recipe

_OF_RECIPES = {
    **COMMON,
    **ADAPTER,
    "--images": Option("PATH", "a folder of images, or one image (default: the test split of the recipe's data)"),
}
_OF_MANY = {**MANY, "--output": Option("FILE", "where the rows go, .csv or .parquet")}
_MANY = """\
Write one row per image: its path and the probability of every class. SOURCE is a folder, searched to its depth, or a
table with a column of paths (.csv, .tsv, also .gz). Images are read as they are needed, however many they are; what
cannot be read is listed in FILE's .rejects.csv. Killed at any moment, the same command goes on where it was. FILE's
.json says which adapter, model and source the rows are of."""
_SUMMARY = """\
Write predictions.csv: one row per image with the probability of every class, of the untouched model (zero-shot)
and, with --adapter, of the adapted one. This way also reads what is no picture: volumes, slides, tiles of scenes."""


def main(words: list[str]) -> int:
    """Run `predict`."""
    arguments = split("predict", words, _OF_RECIPES | _OF_MANY)
    if arguments.help == "":
        print(help_of("predict", _MANY, _OF_MANY))
        print("or " + help_text("predict", _SUMMARY, _OF_RECIPES))
        return 0
    if not takes_recipe("predict", arguments, _OF_RECIPES, _OF_MANY):
        check("predict", arguments, (".csv", ".parquet"))
        from domainvl.commands.passing import predict

        return predict(arguments)
    images = arguments.option("--images")
    if images is not None:
        existing("predict", Path(images), "--images")
    recipe = read_recipes("predict", arguments)
    from domainvl.commands.inference import infer

    return infer("predict", arguments, recipe)
