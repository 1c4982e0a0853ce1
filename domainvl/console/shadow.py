"""The package `data_modules` has a common name: a user's own folder of that name must not take its place silently."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import domainvl
from domainvl.errors import CommandError


def check_shadowing() -> None:
    """Refuse to go on when Python would import another `data_modules` than ours; nothing is imported to find out."""
    ours = Path(domainvl.__file__).resolve().parent.parent / "data_modules"
    spec = importlib.util.find_spec("data_modules")
    if spec is None or spec.origin is None:
        found = list(spec.submodule_search_locations or []) if spec is not None else []
        other = f"; {found[0]} has its name" if found else ""
        raise CommandError(f"domainvl's package data_modules is missing at {ours}{other}", todo="reinstall domainvl")
    place = Path(spec.origin).resolve()
    if ours not in place.parents:
        theirs = place.parent if place.name == "__init__.py" else place
        raise CommandError(
            f"{theirs} hides domainvl's own package data_modules, which lies at {ours}",
            todo=f"rename {theirs.name}, or run from another folder",
        )
