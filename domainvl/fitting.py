"""`python -m domainvl fit`, for scripts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from domainvl.runs import claim


def fit(recipe: str | os.PathLike[str], *, run_dir: str | os.PathLike[str] | None = None, **overrides: Any) -> Path:
    """Train and test as a recipe says; `domainvl.load` takes what comes back.

        run = domainvl.fit("recipes/cxr.yaml", data={"shots": 4}, model={"adapter": "LoRA"}, seed_everything=2)

    Args:
        recipe: A YAML file.
        run_dir: Where results go; runs/RECIPE/NUMBER when None.
        overrides: Keys of the recipe, nested or with dots (`**{"data.shots": 4}`), as the command line takes them. A
            map with a `class_path` is taken whole.

    Returns:
        The run folder.
    """
    from domainvl.commands.fit import main

    words = [f"--{key}={_written(value)}" for key, value in _flat(overrides)]
    run = claim(None if run_dir is None else str(run_dir), Path(recipe))
    try:
        status = main([str(recipe), "--run-dir", str(run.folder), *words])
    finally:
        run.discard_if_unused()
    if status:
        raise KeyboardInterrupt(f"fit was interrupted; python -m domainvl fit --resume {run.folder} goes on")
    return run.folder


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and "class_path" not in value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _written(value: Any) -> str:
    return str(value) if isinstance(value, (str, os.PathLike)) else json.dumps(value)
