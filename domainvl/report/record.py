"""A run as it lies on disk: everything that a report needs, and no model."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domainvl import recipes
from domainvl.errors import CommandError
from domainvl.evaluation.alignment_result import IN_ORGAN
from domainvl.evaluation.bootstrap import Interval
from domainvl.evaluation.saved import Saved, read_predictions
from domainvl.runs import Run

_HEADLINES = ("mean_recall", "auroc_macro", "accuracy")
"""What a run is judged by, the first that it has."""


@dataclass(frozen=True, eq=False)
class Record:
    """One finished run.

    Attributes:
        run: Where it lies.
        metrics: `metrics.json`.
        config: `config.yaml`; empty where there is none.
        facts: `run.json`; empty for runs that wrote none.
        log: Rows of `log.csv`, numbers only.
        rejects: Reasons of `rejects.csv` and how often each occurs.
        saved: `predictions.csv`.
    """

    run: Run
    metrics: Mapping[str, Any]
    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    log: list[dict[str, float]] = field(repr=False)
    rejects: Counter[str] = field(repr=False)
    saved: Saved = field(repr=False)

    @classmethod
    def read(cls, folder: Path) -> Record:
        """Read a run folder."""
        run = Run(folder)
        if not run.metrics.exists() or not run.predictions.exists():
            name = run.metrics.name if not run.metrics.exists() else run.predictions.name
            resume = f"python -m domainvl fit --resume {folder}" if run.checkpoint.exists() else ""
            raise CommandError(f"{folder} has no {name}: it is no run folder, or its run is not finished", todo=resume)
        metrics = _read_json(run.metrics)
        if not has_page(metrics):
            raise CommandError(f"{run.metrics} holds numbers of another shape than a page shows", status=1)
        return cls(
            run=run,
            metrics=metrics,
            config=recipes.load([run.config]) if run.config.exists() else {},
            facts=_read_json(run.facts) if run.facts.exists() else {},
            log=_read_log(run.log) if run.log.exists() else [],
            rejects=_read_rejects(run.rejects) if run.rejects.exists() else Counter(),
            saved=read_predictions(
                run.predictions, [name for name in metrics["per_class"] if not name.endswith(IN_ORGAN)]
            ),
        )

    @property
    def name(self) -> str:
        """What the run is called: recipe and number."""
        folder = self.run.folder.absolute()
        return f"{folder.parent.name} / {folder.name}" if folder.name.isdigit() else folder.name

    @property
    def models(self) -> list[str]:
        """`zero_shot`, and `adapted` where something was learned."""
        return [name for name in ("zero_shot", "adapted") if self.metrics.get(name) is not None]

    @property
    def headline(self) -> str:
        """The metric that the run is judged by."""
        last = self.metrics[self.models[-1]]
        found = [name for name in _HEADLINES if last.get(name, {}).get("value") is not None]
        return found[0] if found else next(iter(last))

    def setting(self, *path: str) -> Any:
        """A value of the recipe, `init_args` left out of the path; None where there is none."""
        node: Any = self.config
        for key in path:
            if isinstance(node, Mapping) and key not in node and isinstance(node.get("init_args"), Mapping):
                node = node["init_args"]
            node = node.get(key) if isinstance(node, Mapping) else None
        return node

    def class_name(self, *path: str) -> str | None:
        """The bare name of a class of the recipe."""
        named = self.setting(*path, "class_path")
        return named.rpartition(".")[2] if isinstance(named, str) else None

    @property
    def method(self) -> str | None:
        """The adapter's name; of several together the names of all."""
        parts = self.setting("model", "adapter", "adapters")
        if not isinstance(parts, list) or not parts:
            return self.class_name("model", "adapter")
        return " and ".join(str(part["class_path"]).rpartition(".")[2] for part in parts)


def has_page(numbers: Mapping[str, Any]) -> bool:
    """Whether results are of a shape that a page can show; a task of the user's own may measure something else."""
    return {"zero_shot", "per_class", "n", "notes", "bootstrap"} <= set(numbers)


def as_interval(value: Mapping[str, Any] | None) -> Interval:
    """A value of `metrics.json`."""
    return Interval(None) if value is None else Interval(value.get("value"), value.get("low"), value.get("high"))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CommandError(f"{path} is no JSON: {error}", status=1) from error
    if not isinstance(found, dict):
        raise CommandError(f"{path} holds {type(found).__name__}, not the results of a run", status=1)
    return found


def _read_log(path: Path) -> list[dict[str, float]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def _read_rejects(path: Path) -> Counter[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return Counter(_general(row["reason"]) for row in csv.DictReader(file))


def _general(reason: str) -> str:
    """A reason without what it quotes from the table or counts, so that equal ones fall together."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\d+(\.\d+)?", "…", reason)
