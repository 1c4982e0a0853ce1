"""`log.csv`: one row per step that logged something, columns as they come; it goes on where a resumed run goes on."""

from __future__ import annotations

import csv
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

Row = dict[str, float | str]


class CsvLog(Logger):
    """Writes what is logged to one CSV file.

    Lightning's CSVLogger deletes the file of the run that it resumes.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._rows: dict[int, Row] = {}

    @property
    def name(self) -> str:
        """Nothing: the run folder has the name."""
        return ""

    @property
    def version(self) -> str:
        """Nothing: the run folder has the number."""
        return ""

    @property
    def log_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep the values of a step."""
        at = max(self._rows, default=0) if step is None else step
        self._rows.setdefault(at, {"step": at}).update(metrics)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""

    @rank_zero_only
    def resume(self, step: int) -> None:
        """Take the rows of the interrupted run back, up to the step that its checkpoint was made at."""
        if not self.path.exists():
            return
        with self.path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if int(row["step"]) < step:
                    self._rows[int(row["step"])] = {key: value for key, value in row.items() if value}

    @rank_zero_only
    def save(self) -> None:
        """Write the file whole, so that an interrupted write leaves the last one."""
        if not self._rows:
            return
        names = {name for row in self._rows.values() for name in row} - {"epoch", "step"}
        draft = self.path.with_name(f".{self.path.name}.tmp")
        with draft.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["epoch", "step", *sorted(names)])
            writer.writeheader()
            writer.writerows(self._rows[step] for step in sorted(self._rows))
        os.replace(draft, self.path)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what there is."""
        self.save()
