"""A run folder: where one run's config, checkpoints, numbers and adapter lie."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from domainvl.errors import CommandError

__all__ = ["Run", "claim", "recipe_name"]

_HANDOVER = "DOMAINVL_RUN_DIR"
"""Environment variable by which the first process tells those that it starts where the run goes."""


@dataclass(frozen=True)
class Run:
    """Paths inside a run folder."""

    folder: Path

    @property
    def config(self) -> Path:
        """The resolved recipe; it can be fitted again."""
        return self.folder / "config.yaml"

    @property
    def checkpoint(self) -> Path:
        """State after the last finished epoch."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def metrics(self) -> Path:
        """The result; it is written last, so a run that has it is finished."""
        return self.folder / "metrics.json"

    @property
    def predictions(self) -> Path:
        """Probabilities per image."""
        return self.folder / "predictions.csv"

    @property
    def rejects(self) -> Path:
        """Rows that could not be read, with the reason."""
        return self.folder / "rejects.csv"

    @property
    def log(self) -> Path:
        """Losses and validation numbers per epoch."""
        return self.folder / "log.csv"

    @property
    def facts(self) -> Path:
        """What data, machine and time the run took."""
        return self.folder / "run.json"

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.folder / "report.html"

    @property
    def adapter(self) -> Path:
        """The folder to share."""
        return self.folder / "adapter"

    def announce(self) -> None:
        """Say where the results lie."""
        if self.report.exists():
            print(f"report: {self.report}")
        print(f"run folder: {self.folder}", flush=True)

    def write_config(self, text: str) -> None:
        """Write `config.yaml`, whole or not at all."""
        draft = self.config.with_name(f".{self.config.name}.tmp")
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, self.config)

    def discard_if_unused(self) -> None:
        """Remove the folder of a run that failed before it made anything."""
        if self.folder.is_dir() and {place.name for place in self.folder.iterdir()} <= {self.config.name}:
            self.config.unlink(missing_ok=True)
            self.folder.rmdir()


def recipe_name(recipe: Path) -> str:
    """What runs of a recipe are called: its stem, or the first recipe's for the config of an earlier run."""
    if recipe.name == "config.yaml" and recipe.absolute().parent.name.isdigit():
        return recipe.absolute().parent.parent.name
    return recipe.stem


def claim(wanted: str | None, recipe: Path) -> Run:
    """Make the folder of a new run; `wanted`, or the next free number below `runs/`.

    Two runs that start at once get two numbers, because making a folder is atomic.
    """
    if _is_follower():
        inherited = wanted or os.environ.get(_HANDOVER)
        if inherited is None:
            raise CommandError(
                "several processes were started from outside and none knows the run folder",
                todo="give --run-dir DIR, the same for all of them",
            )
        return Run(Path(inherited))
    try:
        folder = _named(Path(wanted)) if wanted else _numbered(Path("runs") / recipe_name(recipe))
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "no permission to write", str(folder))
    except OSError as error:
        raise CommandError(
            f"the run folder {error.filename or wanted or 'runs'} cannot be written: {error.strerror}",
            todo="give --run-dir DIR with a folder that you may write",
            status=1,
        ) from error
    os.environ[_HANDOVER] = str(folder.absolute())
    return Run(folder)


def _is_follower() -> bool:
    return any(os.environ.get(name, "0") != "0" for name in ("LOCAL_RANK", "RANK"))


def _named(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        run = Run(folder)
        resume = f"python -m domainvl fit --resume {folder}, or " if run.checkpoint.exists() else ""
        raise CommandError(f"the run folder {folder} is not empty", todo=f"{resume}another --run-dir", status=1)
    return folder


def _numbered(shelf: Path) -> Path:
    shelf.mkdir(parents=True, exist_ok=True)
    number = max((int(place.name) for place in shelf.iterdir() if place.name.isdigit()), default=0) + 1
    while True:
        folder = shelf / str(number)
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder
