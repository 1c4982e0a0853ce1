"""The cells of a grid and where they lie once they are finished."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domainvl import __version__

ZERO_SHOT = "zero-shot"


@dataclass(frozen=True)
class Cell:
    """One training and its test; or one test of the untouched model.

    Attributes:
        dataset: What the recipe is called.
        adapter: What the adapter is called; ZERO_SHOT for none.
        shots: Training patients per class; None for all data, and for zero-shot.
        seed: Seed of everything random; None for zero-shot.
        protocol: See `domainvl.evaluation.protocols`.
        config: The resolved recipe.
        targets: Data sections of other resolved recipes to test on, by what they are called.
    """

    dataset: str
    adapter: str
    shots: int | None
    seed: int | None
    protocol: str
    config: dict[str, Any] = field(repr=False)
    targets: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def key(self) -> str:
        """Sixteen hex digits over all that decides the result: config, protocol, targets and our version.

        Names of recipe files are not in it, so a cell is the same under another name.
        """
        content = [self.config, self.protocol, list(self.targets.items()), __version__]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def title(self) -> str:
        """How the cell is called in a line of progress."""
        words = [self.dataset, self.adapter]
        if self.adapter != ZERO_SHOT:
            shots = "all data" if self.shots is None else f"{self.shots} shot{'s' if self.shots > 1 else ''}"
            words += [shots, f"seed {self.seed}"]
        return "  ".join(words)


@dataclass(frozen=True)
class Shelf:
    """The folder of a benchmark."""

    folder: Path

    def result(self, key: str) -> Path:
        """Where a finished cell lies."""
        return self.folder / "cells" / f"{key}.json"

    def failure(self, key: str) -> Path:
        """Where the error of a failed cell lies."""
        return self.folder / "failed" / f"{key}.txt"

    def read(self, key: str) -> dict[str, Any] | None:
        """A finished cell; None when it is not finished, or its file was damaged from outside."""
        try:
            content: dict[str, Any] = json.loads(self.result(key).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return content if content.get("cell") == key else None

    def keep(self, key: str, content: Mapping[str, Any]) -> None:
        """Write a finished cell, whole or not at all, whenever the process or the machine stops."""
        text = json.dumps({"cell": key, **content}, indent=1, ensure_ascii=False, allow_nan=False)
        write_whole(self.result(key), text + "\n")
        self.failure(key).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove drafts that a killed process left; for the one that holds the folder."""
        for draft in self.folder.glob("*/.*.tmp"):
            draft.unlink(missing_ok=True)

    def fail(self, key: str, text: str) -> None:
        """Write down why a cell failed."""
        write_whole(self.failure(key), text)


def write_whole(path: Path, content: str | bytes) -> None:
    """A file that appears under its name only when it is complete and on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with draft.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
