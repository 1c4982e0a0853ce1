"""Turns jsonargparse's nested messages into: the key, the value, what is accepted, and near matches.

A message is an indented tree. `Parser key "x"` and `Problem with given class_path 'a.B'` lines lead to the line that
says what is wrong; the way there is the key, and the last class on it is the one whose settings are accepted.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, get_args

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from domainvl.errors import CommandError, near

RUN_FOLDER = {
    "default_root_dir",  # --run-dir
    "enable_checkpointing",  # always: checkpoints/last.ckpt
    "barebones",  # no checkpoint, no log: nothing a run is for
    "model_registry",  # a service of Lightning AI
}
"""Trainer arguments that are no settings here, because the run folder decides."""

GROUPS = ("seed_everything", "model", "data", "trainer")
_TOP: dict[str, type] = {"model": LightningModule, "data": LightningDataModule}

_KEY = re.compile(r'Parser key "(?P<key>[^"]+)"')
_CLASS = re.compile(r"Problem with given class_path '(?P<path>[^']+)'")
_OPTION = re.compile(r"Option '(?P<word>[^']+)' is not accepted")
_GROUP = re.compile(r"Group '(?P<group>[^']+)' does not accept option '(?P<word>[^']+)'")
_FLAG = re.compile(r"unrecognized arguments: --(?P<key>[^\s=]+)")
_REQUIRED = re.compile(r"following arguments are required: (?P<key>[\w.]+)|Key \"(?P<other>[\w.]+)\" is required")
_NO_CLASS = re.compile(r"Expected a dot import path string: (?P<name>\S+)|Unexpected import path format: (?P<odd>\S+)")
_NO_ATTRIBUTE = re.compile(r"module '[^']+' has no attribute '(?P<name>[^']+)'|No module named '(?P<module>[^']+)'")
_DENIED = re.compile(r"Importing '(?P<path>[^']+)' is not allowed, denied by the '(?P<entry>[^']+)' entry")
_EXPECTED = re.compile(r"Expected an? (?P<kind>.+?)(?:\. Got value: .*)?$")
_SUBTYPES = re.compile(r"Subtypes: \[(?P<kinds>.*)\]$")
_VALUE = re.compile(r"(?:Got|Given) value: (?P<value>.*?)(?:\. Got value: .*)?$")
_SCALAR = re.compile(r"<class '(?:bool|float|int|str)'>|Literal\[")
_CHOICES = re.compile(r"Literal\[(?P<choices>[^\]]*)\]")
_SPEC = re.compile(r"^\{'class_path': '(?P<path>[^']+)'")


class Complaint(Exception):
    """What jsonargparse said."""


@dataclass(frozen=True)
class _Place:
    """Where the complaint points.

    Attributes:
        key: Dotted key without `init_args`.
        owner: The class whose setting it is, if it could be found.
        lines: What is said about it.
    """

    key: str
    owner: type | None
    lines: list[str]

    def find(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        return next((found for line in self.lines if (found := pattern.search(line))), None)


def explain(message: str, verb: str, recipe: Mapping[str, Any], overrides: Mapping[str, str]) -> CommandError:
    """The error to show for a complaint about this recipe."""
    see = f"python -m domainvl {verb} --help"
    stranger = _unknown_entry(recipe, overrides, see)
    if stranger is not None:
        return stranger
    if found := _FLAG.search(message) or _GROUP.search(message):
        parts = found.groupdict()
        key = parts.get("key") or f"{parts['group']}.{parts['word']}"
        group, _, last = key.rpartition(".")
        if group == "trainer":
            return _unknown_setting("trainer", last, Trainer, see)
        for top in _TOP:
            named = (
                overrides.get(top) or overrides.get(f"{top}.class_path") or (recipe.get(top) or {}).get("class_path")
            )
            owner = _class(str(named))
            kind = _groups(owner).get(group)
            if kind is not None:
                error = _unknown_setting(f"{top}.{group}", last, kind, see)
                error.see = _see(owner, see)  # `--help` knows classes that recipes name, which a group's is not
                return error
        head, dot, tail = key.partition(".")
        meant = [f"{name}{dot}{tail}" for name in near(head, GROUPS)]
        return CommandError(f"unknown key {key!r}; keys start with {', '.join(GROUPS)}", meant=meant, see=see)
    place = _place(message)
    if found := place.find(_OPTION):
        key = _entry(place.key, found["word"], recipe)
        return _unknown_setting(key, found["word"], place.owner, see)
    if found := place.find(_DENIED):
        package = found["path"].partition(".")[0]
        return CommandError(
            f"{place.key}: the recipe names {found['path']}, outside of the packages that recipes may use",
            todo=f"if you trust that code: --allow-import {package}" if found["entry"] == "*" else "",
            see=see,
        )
    subtypes = place.find(_SUBTYPES)
    scalar = subtypes is not None and _SCALAR.search(subtypes["kinds"])
    if (found := place.find(_NO_CLASS) or place.find(_NO_ATTRIBUTE)) and not scalar:
        name = next(word for word in found.groups() if word)
        return _unknown_class(place, name, recipe, see)
    if found := place.find(_REQUIRED):
        name = (found["key"] or found["other"]).removeprefix("init_args.")
        key = ".".join(part for part in (place.key, name) if part)
        return CommandError(f"{key} is missing; the recipe has to name it", see=_see(place.owner, see))
    return _wrong_value(place, recipe, see)


def offered() -> Iterator[type]:
    """Every class that a recipe may name by its bare name."""
    from domainvl.adapters.base import Adapter
    from domainvl.backbones.base import Backbone
    from domainvl.objectives.base import Objective

    roots: tuple[type, ...] = (LightningModule, LightningDataModule, Adapter, Backbone, Objective)
    for root in (*roots, Optimizer, LRScheduler, Callback, Logger):
        yield from _descendants(root)


def _descendants(root: type) -> Iterator[type]:
    if not inspect.isabstract(root) and not root.__name__.startswith("_"):
        yield root
    cls: type
    for cls in type.__subclasses__(root):
        yield from _descendants(cls)


def _place(message: str) -> _Place:
    """Follow the first branch of the tree to its deepest key."""
    lines = [line for line in message.splitlines() if line.strip()]
    depths = [len(line) - len(line.lstrip(" -")) for line in lines]
    keys = [number for number, line in enumerate(lines) if _KEY.search(line)]
    if not keys:
        return _Place("", None, lines)
    deepest = max(keys, key=lambda number: (depths[number], -number))
    way, owner, depth = [], None, depths[deepest] + 1
    for number in range(deepest, -1, -1):
        if depths[number] < depth:
            depth = depths[number]
            if found := _KEY.search(lines[number]):
                way.append(found["key"].removeprefix("init_args."))
            elif owner is None and (found := _CLASS.search(lines[number])):
                owner = _class(found["path"])
    end = next((n for n in range(deepest + 1, len(lines)) if depths[n] <= depths[deepest]), len(lines))
    block = lines[deepest:end]
    inner = [found["path"] for line in block if (found := _CLASS.search(line))]
    if any(_OPTION.search(line) or _REQUIRED.search(line) for line in block):
        callables = re.search(r"class_path='(?P<path>[^']+)'", "\n".join(block))
        named = inner[-1] if inner else callables["path"] if callables else None
        owner = _class(named) if named else owner
    return _Place(".".join(reversed(way)), owner, block)


def _class(path: str) -> type | None:
    module, _, name = path.rpartition(".")
    if not module:
        return next((cls for cls in offered() if cls.__name__ == name), None)
    found = getattr(importlib.import_module(module), name, None)
    return found if isinstance(found, type) else None


def _unknown_setting(key: str, word: str, owner: type | None, see: str) -> CommandError:
    if owner is None:
        return CommandError(f"{key} has no setting {word!r}", see=see)
    known = [name for name in _settings(owner) if not name.startswith("_")]
    has = f"; it has {', '.join(known)}" if 0 < len(known) <= 10 else ""
    inside = [f"{name}.{word}" for name, kind in _groups(owner).items() if word in _settings(kind)]
    return CommandError(
        f"{key}: {owner.__name__} has no setting {word!r}{has}",
        meant=[f"{key}.{name}" for name in inside or near(word, known)],
        see=_see(owner, see),
    )


def null_group(owner: str, values: Mapping[str, Any]) -> str | None:
    """A group of settings that is null and must not be, which jsonargparse lets pass."""
    return next((name for name in _groups(_class(owner)) if name in values and values[name] is None), None)


def _groups(owner: type | None) -> dict[str, type]:
    """The settings of a class that are settings themselves: those whose type is a dataclass, and nothing else."""
    if owner is None:
        return {}
    annotations = {name: one.annotation for name, one in inspect.signature(owner, eval_str=True).parameters.items()}
    return {name: one for name, one in annotations.items() if isinstance(one, type) and is_dataclass(one)}


def _settings(owner: type) -> list[str]:
    hidden = {"args", "kwargs", "params"} | (RUN_FOLDER if owner is Trainer else set())
    return [name for name in inspect.signature(owner).parameters if name not in hidden]


def _see(owner: type | None, see: str) -> str:
    return see if owner is None else f"{see} {owner.__name__}"


def _unknown_class(place: _Place, name: str, recipe: Mapping[str, Any], see: str) -> CommandError:
    fitting = sorted({cls.__name__ for cls in _fitting(place)})
    few = f"; classes are {', '.join(fitting)}" if 0 < len(fitting) <= 12 else ""
    return CommandError(
        f"{_entry(place.key, name, recipe)}: there is no class {name!r}{few}",
        meant=near(name.rpartition(".")[2], fitting or sorted({cls.__name__ for cls in offered()})),
        see=see,
    )


def _fitting(place: _Place) -> list[type]:
    """Classes that the annotation of the setting accepts."""
    last = place.key.rpartition(".")[2]
    if place.key in _TOP:
        roots = [_TOP[place.key]]
    elif place.owner is not None:
        parameter = inspect.signature(place.owner, eval_str=True).parameters.get(last)
        roots = list(_classes(parameter.annotation)) if parameter else []
    else:
        roots = []
    return [cls for root in roots for cls in _descendants(root) if cls is not root]


def _classes(annotation: Any) -> Iterator[type]:
    """The classes inside of `dict[str, Objective] | None` or `Callable[[Iterable], Optimizer]`."""
    if isinstance(annotation, list):
        return  # the arguments of a Callable; what it returns is what is built
    if isinstance(annotation, type) and not get_args(annotation):
        if annotation.__module__ not in ("builtins", "types"):
            yield annotation
        return
    for part in get_args(annotation):
        yield from _classes(part)


def _unknown_entry(recipe: Mapping[str, Any], overrides: Mapping[str, str], see: str) -> CommandError | None:
    """An override that goes through a dict of objects and misses its entries (`--model.objectives.cee.weight`)."""
    for key in overrides:
        parts = key.split(".")
        for length in range(1, len(parts)):
            entries = _node(recipe, ".".join(parts[:length]))
            if length > 1 and _holds_objects(entries) and parts[length] not in entries:
                where = ".".join(parts[:length])
                meant = [".".join([where, name, *parts[length + 1 :]]) for name in near(parts[length], entries)]
                return CommandError(
                    f"{where} has no entry {parts[length]!r}; it has {', '.join(entries)}", meant=meant, see=see
                )
    return None


def _node(recipe: Mapping[str, Any], key: str) -> Any:
    node: Any = recipe
    for part in key.split("."):
        settings = node.get("init_args", node) if isinstance(node, Mapping) else {}
        node = settings.get(part) if isinstance(settings, Mapping) else None
    return node


def _holds_objects(node: Any) -> bool:
    if not isinstance(node, Mapping) or not node or "class_path" in node:
        return False
    # One that is switched off is null.
    entries = [entry for entry in node.values() if entry is not None]
    return bool(entries) and all(isinstance(entry, Mapping) and "class_path" in entry for entry in entries)


def _entry(key: str, word: str, recipe: Mapping[str, Any]) -> str:
    """Add the name of the entry where the setting is a dict of objects, which jsonargparse does not name."""
    entries = _node(recipe, key)
    if _holds_objects(entries):
        for name, spec in entries.items():
            if spec["class_path"] == word or word in spec.get("init_args", {}):
                return f"{key}.{name}"
    return key


def _wrong_value(place: _Place, recipe: Mapping[str, Any], see: str) -> CommandError:
    value = place.find(_VALUE)
    kinds = place.find(_SUBTYPES) or place.find(_EXPECTED)
    if value is None or kinds is None:
        said = " ".join(line.strip() for line in place.lines)
        return CommandError(f"{said[:300]}", see=_see(place.owner, see))
    owner, _, last = place.key.rpartition(".")
    key = f"{_entry(owner, last, recipe)}.{last}" if owner else place.key
    spec = _SPEC.match(value["value"])
    got = f"the class {spec['path']}" if spec else _shown(value["value"])
    choices = [choice for found in _CHOICES.finditer(kinds[1]) for choice in re.findall(r"'([^']*)'", found["choices"])]
    return CommandError(
        f"{key}: got {got}, expected {_readable(kinds[1])}",
        meant=near(value["value"], choices),
        see=_see(place.owner, see),
    )


def _shown(value: str) -> str:
    value = value if len(value) <= 60 else f"{value[:57]}..."
    return repr(value)


def _readable(kinds: str) -> str:
    """`<class 'int'>, <class 'NoneType'>` as `int or null`."""
    kinds = re.sub(r"<class '(?:[\w]+\.)*(\w+)'>", r"\1", kinds)
    kinds = re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", kinds).replace("NoneType", "null")
    kinds = _CHOICES.sub(lambda found: found["choices"].replace(", ", " or "), kinds)
    depth, parts = 0, [""]
    for letter in kinds:
        depth += (letter in "[(") - (letter in "])")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return " or ".join(part.strip() for part in parts)
