"""From a grid of recipes to cells. All recipes are resolved before the first cell runs: mistakes show at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

from domainvl import recipes
from domainvl.benchmark.cells import ZERO_SHOT, Cell
from domainvl.benchmark.grid import SEE, Grid
from domainvl.console import parser as parsing
from domainvl.data.module import DataModule
from domainvl.errors import CommandError
from domainvl.tasks import Classification

_LEARNING = ("adapter", "objectives", "optimizer", "schedule")


def plan(grid: Grid, overrides: Mapping[str, str]) -> list[Cell]:
    """All cells: zero-shot first, which tells soon whether the data are right, then the longest, which pack best."""
    targets = {target.name: _resolved(_untrained(target.recipe), {}, target.name)["data"] for target in grid.targets}
    cells = []
    for dataset in grid.trained:
        # Settings of the learning have no place in a zero-shot cell: it would be run again for each of them.
        general = {key: value for key, value in overrides.items() if not _of_learning(key)}
        plain = _resolved(_untrained(dataset.recipe), general, dataset.name)
        plain["data"]["init_args"]["shots"] = None
        plain["trainer"] = {**plain["trainer"], "max_epochs": None, "callbacks": None}
        cells.append(Cell(dataset.name, ZERO_SHOT, None, None, grid.protocol, plain, targets))
    for dataset in grid.trained:
        for label, recipe in dataset.variants.items():
            config = _resolved(recipe, overrides, label)
            _check_trainable(config, label)
            for shots in grid.shots or [config["data"]["init_args"]["shots"]]:
                for seed in grid.seeds:
                    own = copy.deepcopy(config)
                    own["seed_everything"] = seed
                    own["data"]["init_args"]["shots"] = shots
                    cells.append(Cell(dataset.name, label, shots, seed, grid.protocol, own, targets))
    return sorted(cells, key=lambda cell: -weight(cell) if cell.adapter != ZERO_SHOT else -float("inf"))


def weight(cell: Cell) -> float:
    """About how long a cell takes, in units of its own; for the order of cells and the time that is left."""
    return 1.0 if cell.adapter == ZERO_SHOT else 6.0 + (32 if cell.shots is None else cell.shots)


def _of_learning(key: str) -> bool:
    parts = [part for part in key.split(".") if part != "init_args"]
    return parts[0] == "model" and len(parts) > 1 and parts[1] in _LEARNING


def _untrained(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return recipes.merge(recipe, {"model": {"init_args": dict.fromkeys(_LEARNING)}})


def _resolved(recipe: Mapping[str, Any], overrides: Mapping[str, str], what: str) -> dict[str, Any]:
    try:
        parser, config = parsing.parse("benchmark", recipes.switch_classes(dict(recipe), overrides), overrides)
    except CommandError as error:
        error.what = f"{what}: {error.what}"
        raise
    _check_kind(config, what)
    return parsing.plain(parser, config)


def _check_kind(config: Namespace, what: str) -> None:
    for key, base in (("model", Classification), ("data", DataModule)):
        path = config[key].class_path
        if not issubclass(_class(path), base):
            raise CommandError(f"{what}: {key} is {path}; benchmark runs sub-classes of {base.__name__}", see=SEE)
    if "shots" not in config.data.init_args:
        raise CommandError(f"{what}: the data module {config.data.class_path} has no setting 'shots'", see=SEE)
    devices = config.trainer.devices
    if devices not in ("auto", "1", 1):
        raise CommandError(
            f"{what}: trainer.devices is {devices!r}, but a cell runs on one; give --jobs to run several at once",
            see=SEE,
        )


def _check_trainable(config: Mapping[str, Any], label: str) -> None:
    trainer = config["trainer"]
    if trainer["max_epochs"] is None and trainer["max_time"] is None and trainer["max_steps"] == -1:
        raise CommandError(f"{label}: trainer.max_epochs is missing; say how long to train", see=SEE)


def _class(path: str) -> type:
    import importlib

    module, _, name = path.rpartition(".")
    found: type = getattr(importlib.import_module(module), name)
    return found
