"""`benchmark RECIPE`: a grid of adapters, shots and seeds, that can be killed and goes on where it was."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from domainvl import recipes
from domainvl.benchmark.grid import PROTOCOLS, SEE, Dataset, Grid, dataset
from domainvl.console.arguments import COMMON, Arguments, Option, split
from domainvl.console.shadow import check_shadowing
from domainvl.errors import CommandError, near

_OPTIONS = {
    "--adapters": Option("A ...", "class names or recipe files laid over RECIPE (default: RECIPE's own)", many=True),
    "--shots": Option("K ...", "training patients per class (default: RECIPE's data.shots)", many=True),
    "--seeds": Option("N", "seeds 1 to N (default: 3)"),
    "--protocol": Option("NAME", f"{', '.join(PROTOCOLS)} (default: few-shot)"),
    "--jobs": Option("N", "processes (default: one per GPU, without one per core)"),
    **COMMON,
    "--run-dir": Option("DIR", "where cells and results lie (default: runs/<recipe>/benchmark)"),
}
_PAGE = """\
usage: python -m domainvl benchmark RECIPE [RECIPE ...] [--adapters A ...] [--shots K ...] [--seeds N] [--key value ...]

Train and test every adapter with every number of shots and every seed, and the untouched model (zero-shot) once.
The same command again goes on where it was stopped or killed: finished cells are kept in DIR/cells, one file each.

Unlike elsewhere, several recipes are several data sets, not one merged recipe.

An adapter is a class name (MMRL), which takes losses and settings from the recipe beside RECIPE that uses it
(cxr-coop.yaml for CoOp), or such a recipe file. Where there is none, RECIPE's own losses train it, if they name no
features (logits, source). Adapters are told apart by their name or their file's.

options:
{options}

protocols:
  few-shot               train on K shots of all classes, test on all of them
  base-to-novel          train on the first half of the sorted classes; test that half and the other
  cross-dataset          train on the first RECIPE, test on all
  domain-generalisation  the same with the classes of the first RECIPE

keys of the recipe, each with --key value, count for every cell:
  --trainer.max_epochs 10
  --model.backbone.name openai/clip-vit-base-patch16
  --data.root DIR

what it leaves in DIR:
  cells/<hash>.json      one finished cell: config, numbers with patient-bootstrap intervals, hashes, seconds
  failed/<hash>.txt      the error of a cell that failed; the next run tries it again
  results.csv            one row per cell and metric
  curves.png curves.svg  the first metric over shots, zero-shot as a line, bands over seeds

examples:
  python -m domainvl benchmark recipes/cxr.yaml --adapters MMRL CoOp LoRA --shots 1 2 4 8 16 --seeds 3
  python -m domainvl benchmark recipes/cxr.yaml --adapters MMRL CoOp --shots 16 --protocol base-to-novel
"""
_GRID = {"seed_everything": "--seeds", "data.shots": "--shots", "data.init_args.shots": "--shots"}


def main(words: list[str]) -> int:
    """Run `benchmark`."""
    arguments = split("benchmark", words, _OPTIONS)
    if arguments.help is not None:
        width = max(len(f"{name} {option.value}") for name, option in _OPTIONS.items())
        rows = "\n".join(f"  {f'{name} {option.value}':{width}s}  {option.text}" for name, option in _OPTIONS.items())
        print(_PAGE.format(options=rows), end="")
        return 0
    protocol = _protocol(arguments)
    shots = [_number("--shots", word) for word in arguments.options.get("--shots", [])]
    seeds = list(range(1, _number("--seeds", arguments.option("--seeds") or "3") + 1))
    jobs = arguments.option("--jobs")
    processes = None if jobs is None else _number("--jobs", jobs)
    if not arguments.recipes:
        raise CommandError("benchmark needs a recipe, e.g. python -m domainvl benchmark recipes/cxr.yaml", see=SEE)
    _check(arguments, shots)
    across = protocol in ("cross-dataset", "domain-generalisation")
    if across and len(arguments.recipes) < 2:
        raise CommandError(f"{protocol} trains on the first recipe and tests on all; give two or more", see=SEE)
    check_shadowing()
    paths = arguments.recipes[:1] if across else arguments.recipes
    trained = [dataset(path, arguments.options.get("--adapters", [])) for path in paths]
    targets = [Dataset(path.stem, recipes.load([path])) for path in arguments.recipes[len(paths) :]]
    grid = Grid(protocol, trained, targets, shots, seeds)
    # Everything above answers at once; torch and lightning take seconds, here and in the workers, at the same time.
    _warm_up()
    from domainvl.benchmark.run import benchmark

    return benchmark(arguments, grid, processes)


def _warm_up() -> None:
    """Start the process that workers are forked from; it imports what they need."""
    if sys.platform == "win32":
        return
    from multiprocessing import forkserver

    forkserver.set_forkserver_preload(["domainvl.benchmark.bench", "domainvl.backbones", "data_modules"])
    forkserver.ensure_running()


def _protocol(arguments: Arguments) -> str:
    name = arguments.option("--protocol") or PROTOCOLS[0]
    if name not in PROTOCOLS:
        raise CommandError(
            f"--protocol: {name!r} is not one of {', '.join(PROTOCOLS)}", meant=near(name, PROTOCOLS), see=SEE
        )
    return name


def _number(name: str, word: str) -> int:
    if not word.isdigit() or int(word) < 1:
        hint = "; recipes come before the options" if word.endswith(".yaml") else ""
        raise CommandError(f"{name} must be a whole number from 1 on, got {word!r}{hint}", see=SEE)
    return int(word)


def _check(arguments: Arguments, shots: Sequence[int]) -> None:
    for key in arguments.overrides:
        if key in _GRID:
            raise CommandError(f"--{key} is what the grid goes through; give {_GRID[key]}", see=SEE)
        if key in ("model.adapter", "model.init_args.adapter"):
            raise CommandError(f"--{key} is what the grid goes through; give --adapters", see=SEE)
    if len(set(shots)) < len(shots):
        raise CommandError(f"--shots: {' '.join(map(str, shots))} names a number twice", see=SEE)
    stems = [path.stem for path in arguments.recipes]
    if len(set(stems)) < len(stems):
        raise CommandError(f"recipes are told apart by their names, got {', '.join(stems)}", see=SEE)
    if arguments.print_config:
        raise CommandError("--print_config shows one recipe; give it to fit", see="python -m domainvl fit --help")
