"""`metrics.json` and `predictions.csv`, written whole or not at all."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

import domainvl
from domainvl.evaluation.predictions import Predictions


class Measured(Protocol):
    """Numbers with intervals."""

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""


HASHES = ("split", "preset", "backbone")
_RESERVED = ("split", "hashes", "seed", "versions")


def write_metrics(
    path: str | os.PathLike[str],
    evaluation: Measured,
    *,
    split: str,
    hashes: Mapping[str, str],
    seed: int,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write `metrics.json`.

    Args:
        path: The file; its folder must exist.
        evaluation: The numbers.
        split: Name of the split they were made on.
        hashes: What was compared: at least `split`, `preset` and `backbone`.
        seed: Of the run.
        extra: More top-level keys, for example the recipe or the number of shots.
    """
    missing = [name for name in HASHES if name not in hashes]
    if missing:
        raise ValueError(f"write_metrics: hashes lack {', '.join(missing)}; got {', '.join(sorted(hashes)) or 'none'}")
    numbers = evaluation.as_dict()
    taken = sorted(set(extra or {}) & (set(numbers) | set(_RESERVED)))
    if taken:
        raise ValueError(f"write_metrics: extra would overwrite {', '.join(taken)}; choose other names")
    content = {"split": split} | numbers | {"hashes": dict(hashes), "seed": seed, "versions": versions()}
    content |= dict(extra or {})
    with whole_file(Path(path)) as file:
        json.dump(plain(content), file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def write_predictions(path: str | os.PathLike[str], predictions: Predictions) -> None:
    """Write `predictions.csv`: one row per image, with every digit that the metrics were computed from.

    Columns: `id`, `patient`; `label` (a class name) or, multi-label, `label:<class>` (1, 0, or empty where unknown);
    `zero_shot:<class>`; `adapted:<class>` if there is an adapted model.
    """
    header, rows = prediction_columns(predictions)
    with whole_file(Path(path)) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "patient", *header])
        for name, patient, cells in zip(predictions.ids, predictions.patients, rows, strict=True):
            writer.writerow([name, patient, *cells])


def prediction_columns(predictions: Predictions) -> tuple[list[str], Iterator[list[Any]]]:
    """Names of the columns of labels and scores, and their cells, row by row."""
    header = []
    scored = {"zero_shot": predictions.zero_shot}
    if predictions.adapted is not None:
        scored["adapted"] = predictions.adapted
    if predictions.labels is not None:
        header += [f"label:{name}" for name in predictions.classes] if predictions.multilabel else ["label"]
    header += [f"{model}:{name}" for model in scored for name in predictions.classes]
    # float64 prints the shortest text that reads back to the same number, for float32 values too.
    scores = np.concatenate([values.astype(np.float64) for values in scored.values()], axis=1)
    return header, (_labels(predictions, row) + scores[row].tolist() for row in range(len(predictions)))


def _labels(predictions: Predictions, row: int) -> list[str]:
    if predictions.labels is None:
        return []
    if not predictions.multilabel:
        return [predictions.classes[int(predictions.labels[row])]]
    known = predictions.known[row]
    return [str(int(label)) if k else "" for label, k in zip(predictions.labels[row], known, strict=True)]


def plain(value: Any) -> Any:
    """Values for JSON, NaN as None: JSON has no NaN, and some readers stop at the one that Python would write."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def versions() -> dict[str, str]:
    """What made a result."""
    libraries = {name: version(name) for name in ("numpy", "torch", "torchmetrics")}
    return {"domainvl": domainvl.__version__, "python": platform.python_version()} | libraries


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A text file that appears under its name only when it is complete."""
    # In the same folder, since a rename across file systems is a copy; not by tempfile, whose files only we may read.
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("w", encoding="utf-8", newline="") as file:
            yield file
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
