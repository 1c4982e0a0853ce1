"""`export RUN OUT`: the adapter of a run as a folder to share, and what others can use without this package."""

from __future__ import annotations

from domainvl.console.arguments import COMMON, Option, split
from domainvl.errors import CommandError

_OPTIONS = {
    "--merge": Option("", "write the merged model"),
    "--onnx": Option("", "write an ONNX file"),
    "--push-to-hub": Option("USER/NAME", "put the folder on the Hugging Face Hub"),
    "--public": Option("", "let everybody see a new repository"),
    "--licence": Option("ID", "licence of the model below"),
    "--allow-import": COMMON["--allow-import"],
}
_SEE = "python -m domainvl export --help"
_HELP = """\
usage: python -m domainvl export RUN OUT [--merge] [--onnx] [--push-to-hub USER/NAME [--public]]

Write the adapter of a finished run to OUT: safetensors, model card, recipe, and for LoRA a plain PEFT pair that
peft.PeftModel.from_pretrained loads without this package. No path, patient or report text is in it.

options:
  --merge                  OUT/merged: the whole model with a LoRA written into its weights, in its own format
  --onnx                   OUT/model.onnx: image tower and class texts, compared with torch before it stays
  --push-to-hub USER/NAME  put OUT on the Hugging Face Hub, private; cut half way, the same command goes on
  --public                 for --push-to-hub: let everybody see a new repository
  --licence ID             of the model below, as the Hub writes it (default: what the Hub says of it)
  --allow-import PACKAGE   let the recipe of the run name classes of this package; repeatable"""


def main(words: list[str]) -> int:
    """Run `export`."""
    arguments = split("export", words, _OPTIONS)
    if arguments.help is not None:
        print(_HELP)
        return 0
    if len(arguments.recipes) != 2:
        raise CommandError("export needs two folders, e.g. python -m domainvl export runs/cxr/1 my-adapter", see=_SEE)
    if arguments.overrides:
        raise CommandError(f"export takes no key of a recipe, got --{next(iter(arguments.overrides))}", see=_SEE)
    if "--public" in arguments.options and "--push-to-hub" not in arguments.options:
        raise CommandError("--public goes with --push-to-hub", see=_SEE)
    from domainvl.commands.exporting import export

    return export(arguments)
