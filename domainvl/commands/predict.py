"""`predict RECIPE`: class probabilities for images without labels."""

from __future__ import annotations

from pathlib import Path

from domainvl.console.arguments import ADAPTER, COMMON, Option, help_text, read_recipes, split
from domainvl.errors import CommandError, near

_OPTIONS = {
    **COMMON,
    **ADAPTER,
    "--images": Option("PATH", "a folder of images, or one image (default: the test split of the recipe's data)"),
}
_SUMMARY = """\
Write predictions.csv: one row per image with the probability of every class, of the untouched model (zero-shot)
and, with --adapter, of the adapted one."""


def main(words: list[str]) -> int:
    """Run `predict`."""
    arguments = split("predict", words, _OPTIONS)
    if arguments.help == "":
        print(help_text("predict", _SUMMARY, _OPTIONS))
        return 0
    images = arguments.option("--images")
    if images is not None and not Path(images).exists():
        path = Path(images)
        beside = [place.name for place in path.parent.iterdir()] if path.parent.is_dir() else []
        raise CommandError(
            f"--images: {path} does not exist",
            meant=[str(path.parent / name) for name in near(path.name, beside)],
            see="python -m domainvl predict --help",
        )
    recipe = read_recipes("predict", arguments)
    from domainvl.commands.inference import infer

    return infer("predict", arguments, recipe)
