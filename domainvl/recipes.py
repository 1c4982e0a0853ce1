"""Recipes: YAML files that name what is built. Several are merged, and one may inherit from another with `base:`.

Merging happens here and not in jsonargparse, which replaces a dict by the overlay's keys.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from domainvl.errors import CommandError, near

__all__ = ["dump", "load", "load_change", "merge", "off", "sources", "switch_classes"]

Recipe = dict[str, Any]

_NULLS = ("~", "null", "Null", "NULL")


def load(paths: Sequence[Path]) -> Recipe:
    """Read recipes and merge them, the last one wins."""
    recipe: Recipe = {}
    for path in paths:
        recipe = merge(recipe, _read(path, ()))
    return recipe


def load_change(path: Path, under: Collection[Path]) -> Recipe:
    """Read what a recipe changes in another one: of its bases, the files in `under` are not read again."""
    return _read(path, (), under)


def sources(path: Path) -> list[Path]:
    """The files that a recipe is made of, itself first, as resolved paths."""
    found: dict[Path, None] = {}
    _read(path, (), (), found)
    return list(found)


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> Recipe:
    """Merge key by key; lists and values of the overlay replace, `null` stays null.

    A map that names another class replaces the whole map: settings belong to the class they were written for.
    """
    merged = dict(base)
    for key, value in overlay.items():
        merged[key] = _merged(merged.get(key), value)
    return merged


def switch_classes(recipe: Recipe, overrides: Mapping[str, str]) -> Recipe:
    """Drop the settings of classes that the command line exchanges (`--model.adapter LoRA`).

    jsonargparse keeps settings of the old class whose names the new one has too, with the old values.
    """
    fresh = merge({}, recipe)
    for key, value in overrides.items():
        owner, _, last = key.removesuffix(".class_path").rpartition(".")
        node: Any = fresh
        for part in owner.split(".") if owner else []:
            node = _child(node, part)
        if not isinstance(node, dict):
            continue
        holder = node if last in node else node.get("init_args")
        spec = holder.get(last) if isinstance(holder, dict) else None
        if not isinstance(holder, dict) or not isinstance(spec, dict) or "class_path" not in spec:
            continue
        if off(recipe, key, value):
            holder[last] = None
        if _is_class(value) and not _same_class(spec["class_path"], value):
            holder[last] = {"class_path": value}
    return fresh


def off(recipe: Mapping[str, Any], key: str, value: str) -> bool:
    """Whether an override switches off an entry of a map of objects (`--model.objectives.words null`).

    jsonargparse reads such a word as the name of a class; in the recipe itself it is a null.
    """
    owner, _, last = key.rpartition(".")
    node: Any = recipe
    for part in owner.split("."):
        node = _child(node, part)
    if value not in _NULLS or not isinstance(node, dict) or "class_path" in node or last not in node:
        return False
    return node[last] is None or (isinstance(node[last], dict) and "class_path" in node[last])


def dump(recipe: Mapping[str, Any]) -> str:
    """YAML text in the order given."""
    return yaml.dump(dict(recipe), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _child(node: Any, part: str) -> Any:
    if not isinstance(node, dict):
        return None
    if part not in node and isinstance(node.get("init_args"), dict):
        return node["init_args"].get(part)
    return node.get(part)


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(new, Mapping):
        return list(new) if isinstance(new, list) else new
    if isinstance(old, str) and "init_args" in new and "class_path" not in new:
        old = {"class_path": old}  # `adapter: LoRA` is short for `adapter: {class_path: LoRA}`
    if not isinstance(old, Mapping):
        return merge({}, new)
    if "class_path" in new and not _same_class(old.get("class_path", new["class_path"]), new["class_path"]):
        return merge({}, new)
    return merge(old, new)


def _is_class(value: str) -> bool:
    return re.fullmatch(r"[A-Za-z_][\w.]*", value) is not None and value not in ("null", "true", "false")


def _same_class(one: Any, other: Any) -> bool:
    """Whether two class paths can be the same class: a bare name equals the full path that ends with it."""
    one, other = str(one), str(other)
    return one == other or one.endswith(f".{other}") or other.endswith(f".{one}")


def _read(
    path: Path, below: tuple[Path, ...], known: Collection[Path] = (), seen: dict[Path, None] | None = None
) -> Recipe:
    place = path.resolve()
    if place in known:
        return {}
    if seen is not None:
        seen[place] = None
    if place in below:
        names = " -> ".join(part.name for part in (*below, place))
        raise CommandError(f"recipe {path}: `base:` runs in a circle: {names}", todo="take one `base:` line out")
    recipe = _parse(path)
    bases = recipe.pop("base", None)
    bases = [] if bases is None else bases if isinstance(bases, list) else [bases]
    merged: Recipe = {}
    for base in bases:
        if not isinstance(base, str):
            raise CommandError(f"recipe {path}: `base:` must be a file name or a list of them, got {base!r}")
        merged = merge(merged, _read(path.parent / base, (*below, place), known, seen))
    return merge(merged, recipe)


def _parse(path: Path) -> Recipe:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = _beside(path)
        raise CommandError(
            f"recipe {path} does not exist",
            meant=[str(path.parent / name) for name in near(path.name, beside) or beside[:3]],
            see=f"the folder {path.parent.resolve()}",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"recipe {path} cannot be read: {error}") from error
    try:
        recipe = yaml.load(text, Loader=_Loader)  # noqa: S506  _Loader is a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise CommandError(f"recipe {path}{where}: {problem}", todo="mend the YAML there") from error
    if recipe is None:
        return {}
    if not isinstance(recipe, dict) or not all(isinstance(key, str) for key in recipe):
        raise CommandError(f"recipe {path} must be a map of keys (model, data, trainer), got {type(recipe).__name__}")
    return recipe


def _beside(path: Path) -> list[str]:
    folder = path.parent
    return sorted(p.name for p in folder.glob("*") if p.suffix in (".yaml", ".yml")) if folder.is_dir() else []


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars, and a key may be written once.

    The 1.1 rules of PyYAML read `3e-4` as text, `no` (a label!) as false, and let the second of two equal keys win.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is written twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes exactly the texts that `_Loader` would not read as text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)
