"""One jsonargparse parser for every verb that takes a recipe: `seed_everything`, `model`, `data`, `trainer`."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace, set_parsing_settings
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from domainvl import recipes
from domainvl.console import explain
from domainvl.errors import CommandError, near

ALLOWED = ("domainvl", "data_modules", "lightning", "torch.optim", "torch.nn")
"""Packages whose classes a recipe may name; a class path is code."""

_OFFERS = (
    "domainvl.tasks",
    "domainvl.adapters",
    "domainvl.objectives",
    "domainvl.backbones",
    "data_modules",
    "torch.optim.lr_scheduler",
    "lightning.pytorch.loggers",
    "lightning.pytorch.callbacks",
)
"""A bare class name resolves among imported subclasses, so what recipes name is imported first."""

_DEFAULTS = {
    "trainer.enable_model_summary": False,  # one line of ours says what is trained
    "trainer.num_sanity_val_steps": 0,  # the data is checked at set-up, with better messages
    "trainer.log_every_n_steps": 1,  # few-shot epochs are shorter than Lightning's 50
}


class RecipeParser(ArgumentParser):
    """An ArgumentParser whose errors are three lines."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise CommandError, except where jsonargparse collects the messages of inner parsers."""
        if not self.exit_on_error:
            super().error(message, ex)
        raise explain.Complaint(message) from ex


def offer_classes(allow: Sequence[str] = ()) -> None:
    """Import what recipes may name, and forbid the rest.

    Args:
        allow: The user's own packages.
    """
    for name in _OFFERS:
        importlib.import_module(name)
    if allow and "" not in sys.path:
        sys.path.insert(0, "")  # the console script, unlike `python -m`, does not look into the working directory
    for name in allow:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
            raise CommandError(
                f"--allow-import {name}: there is no such package",
                todo="install it, or run from the folder that it lies in",
            ) from error
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=[*ALLOWED, *allow])


def build(prog: str) -> RecipeParser:
    """The parser; classes have to be offered before."""
    parser = RecipeParser(prog=prog, allow_abbrev=False, add_help=False)
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_argument("--seed_everything", type=int, default=0)
    parser.add_subclass_arguments(LightningModule, "model", required=True, fail_untyped=False)
    parser.add_subclass_arguments(LightningDataModule, "data", required=True, fail_untyped=False)
    parser.add_class_arguments(Trainer, "trainer", instantiate=False, fail_untyped=False, skip=set(explain.RUN_FOLDER))
    parser.set_defaults(_DEFAULTS)
    return parser


def parse(verb: str, recipe: Mapping[str, Any], overrides: Mapping[str, str]) -> tuple[RecipeParser, Namespace]:
    """Check a merged recipe with its overrides against the signatures of the classes that it names."""
    parser = build(f"python -m domainvl {verb}")
    see = f"python -m domainvl {verb} --help"
    unknown = [key for key in recipe if key not in explain.GROUPS]
    if unknown:
        raise CommandError(
            f"unknown key {unknown[0]!r} in the recipe; keys are {', '.join(explain.GROUPS)}",
            meant=near(unknown[0], explain.GROUPS),
            see=see,
        )
    for key in ("model", "data"):
        spec = recipe.get(key)
        if isinstance(spec, Mapping) and "class_path" not in spec and key not in overrides:
            raise CommandError(f"{key} names no class; give `{key}: {{class_path: ...}}`", see=see)
    said = [f"--{key}={value}" for key, value in overrides.items() if not recipes.off(recipe, key, value)]
    words = [f"--config={json.dumps(recipe)}", *said]
    try:
        parsed = parser.parse_args(words)
    except explain.Complaint as complaint:
        raise explain.explain(str(complaint), verb, recipe, overrides) from complaint
    for key in ("model", "data"):
        found = explain.null_group(parsed[key].class_path, parsed[key].get("init_args") or {})
        if found is not None:
            raise CommandError(f"{key}.{found} is null; leave the line out for its defaults, or give settings", see=see)
    return parser, parsed


def plain(parser: RecipeParser, config: Namespace) -> dict[str, Any]:
    """The resolved recipe as plain values, every default included."""
    text = parser.dump(config, format="json", skip_unset=False, skip_validation=True)
    values: dict[str, Any] = json.loads(text)
    values.pop("config", None)
    return values


def class_help(name: str, allow: Sequence[str] = ()) -> str:
    """All settings of a class that recipes may name.

    Args:
        name: Its bare name.
        allow: The user's own packages, imported already.
    """
    known = {cls.__name__: cls for cls in explain.offered()} | {"Trainer": Trainer}
    for package in allow:
        own = vars(sys.modules[package]).items()
        known |= {key: value for key, value in own if isinstance(value, type) and value.__module__ == package}
    if name not in known:
        raise CommandError(f"no class {name!r} is known", meant=near(name, known), see="python -m domainvl fit --help")
    cls = known[name]
    parser = ArgumentParser(prog=name, usage=f"settings of {cls.__module__}.{name}", add_help=False)
    parser.add_class_arguments(cls, fail_untyped=False, skip=set(explain.RUN_FOLDER) if cls is Trainer else None)
    return parser.format_help()
