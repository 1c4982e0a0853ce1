"""Which recipe a word of `--adapters` stands for.

A recipe file is laid over the benchmarked recipe: what it changes counts, what it inherits from the same files does not
count twice. A bare class name is looked up in the recipes beside the benchmarked one, because an adapter says nothing
about the losses that train it. Where there is none, the recipe's own losses train it, as `fit --model.adapter` would
have it, unless they are written for what one adapter alone makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domainvl import recipes
from domainvl.console.arguments import RECIPE_SUFFIXES
from domainvl.errors import CommandError, near

PROTOCOLS = ("few-shot", "base-to-novel", "cross-dataset", "domain-generalisation")
"""See `domainvl.evaluation.protocols`, which is not imported here, because it comes with numpy."""

SEE = "python -m domainvl benchmark --help"

_FEATURES = {"logits", "source"}
"""Settings by which a loss says which features it reads; without them it reads those that every adapter makes."""


@dataclass(frozen=True)
class Dataset:
    """A benchmarked recipe.

    Attributes:
        name: What it is called.
        recipe: The recipe itself; its adapter is not used.
        variants: The recipe with every adapter of the grid, by what the adapter is called.
    """

    name: str
    recipe: dict[str, Any]
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """What is run.

    Attributes:
        protocol: One of PROTOCOLS.
        trained: Data sets that are trained on.
        targets: Other data sets to test on.
        shots: Numbers of shots; empty for what the recipes say.
        seeds: Seeds.
    """

    protocol: str
    trained: Sequence[Dataset]
    targets: Sequence[Dataset]
    shots: Sequence[int]
    seeds: Sequence[int]


def dataset(path: Path, words: Sequence[str]) -> Dataset:
    """A recipe with the adapters that `words` name, in that order; with its own for none."""
    base = recipes.load([path])
    own = adapter_of(base)
    if not words and own is None:
        raise CommandError(f"recipe {path} has no model.adapter; say which ones with --adapters", see=SEE)
    found: dict[str, dict[str, Any]] = {}
    for word in words or [str(own)]:
        label, recipe = _variant(path, base, word)
        if label in found:
            raise CommandError(f"--adapters: {label} is given twice; name recipe files differently", see=SEE)
        found[label] = recipe
    return Dataset(path.stem, base, found)


def adapter_of(recipe: dict[str, Any]) -> str | None:
    """The bare name of the adapter class that a recipe, or a change of one, names."""
    node: Any = recipe
    for key in ("model", "init_args", "adapter"):
        node = node.get(key) if isinstance(node, dict) else None
    name = node.get("class_path") if isinstance(node, dict) else node
    return None if name is None else str(name).rpartition(".")[2]


def _variant(path: Path, base: dict[str, Any], word: str) -> tuple[str, dict[str, Any]]:
    if word.endswith(RECIPE_SUFFIXES) or "/" in word:
        file = Path(word)
        change = _change(file, path)
        merged = recipes.merge(base, change)
        label = file.stem.removeprefix(f"{path.stem}-") if change else adapter_of(merged)
        return str(label), merged
    if word == adapter_of(base):
        return word, base
    beside = _beside(path, word, base)
    change = {"model": {"init_args": {"adapter": {"class_path": word}}}} if beside is None else _change(beside, path)
    return word, recipes.merge(base, change)


def _change(file: Path, path: Path) -> dict[str, Any]:
    change = recipes.load_change(file, recipes.sources(path))
    data = change.get("data")
    if isinstance(data, dict) and "class_path" in data:
        raise CommandError(
            f"--adapters {file}: it names data of its own, so it is no change of {path}",
            todo=f"benchmark it by itself, or write the adapter into a recipe with `base: {path.name}`",
            see=SEE,
        )
    return change


def _beside(path: Path, name: str, base: dict[str, Any]) -> Path | None:
    """The recipe `<stem>-*.yaml` whose adapter is called `name`, next to the recipe or to one that it inherits from.

    None where there is none and none is needed.
    """
    candidates: dict[Path, str | None] = {}
    sources = recipes.sources(path)
    for source in sources:
        for file in sorted(source.parent.glob(f"{source.stem}-*.yaml")):
            if file.resolve() not in sources:
                candidates[file] = adapter_of(recipes.load_change(file, sources))
    wanted = _folded(name)
    found = [file for file in candidates if any(_folded(file.stem) == _folded(one.stem) + wanted for one in sources)]
    found = found[:1] or [file for file, adapter in candidates.items() if adapter == name]
    if len(found) > 1:
        names = " or ".join(str(file) for file in found)
        raise CommandError(f"--adapters {name}: several recipes use it; give one of the files", meant=[names], see=SEE)
    if found:
        return found[0]
    losses = base.get("model", {}).get("init_args", {}).get("objectives") or {}
    if losses and not any(_FEATURES & set((loss or {}).get("init_args") or {}) for loss in losses.values()):
        return None
    known = {adapter for adapter in candidates.values() if adapter} | {str(adapter_of(base))}
    raise CommandError(
        f"--adapters {name}: no recipe {path.stem}-*.yaml uses it, so nothing says which losses train it",
        meant=near(name, known),
        todo=f"write {path.stem}-{name.lower()}.yaml with `base: {path.name}`, model.init_args.adapter and "
        f"model.init_args.objectives: keep, change or null {', '.join(losses) or 'what it needs'}; known here: "
        f"{', '.join(sorted(known))}",
    )


def _folded(name: str) -> str:
    return name.replace("-", "").replace("_", "").lower()
