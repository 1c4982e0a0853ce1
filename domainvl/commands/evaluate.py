"""`validate RECIPE` and `test RECIPE`: measure a saved adapter, or the untouched model (zero-shot)."""

from __future__ import annotations

from domainvl.console.arguments import ADAPTER, COMMON, help_text, read_recipes, split

_OPTIONS = {**COMMON, **ADAPTER}
_SUMMARY = """\
Measure a model on the {split} split. With --adapter the saved adapter is measured beside the untouched model;
without, the untouched model alone (zero-shot), with the recipe's prompts. The recipe's own adapter, objectives,
optimizer and schedule are not used."""


def validate(words: list[str]) -> int:
    """Run `validate`."""
    return _main("validate", words)


def test(words: list[str]) -> int:
    """Run `test`."""
    return _main("test", words)


def _main(verb: str, words: list[str]) -> int:
    arguments = split(verb, words, _OPTIONS)
    if arguments.help == "":
        print(help_text(verb, _SUMMARY.format(split="validation" if verb == "validate" else "test"), _OPTIONS))
        return 0
    recipe = read_recipes(verb, arguments)
    from domainvl.commands.inference import infer

    return infer(verb, arguments, recipe)
