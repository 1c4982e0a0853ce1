"""From a command line to objects that can run, shared by all verbs that take a recipe."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import RichProgressBar

from domainvl import recipes
from domainvl.console import parser as parsing
from domainvl.console.arguments import Arguments
from domainvl.console.callbacks import EpochLines
from domainvl.console.log import CsvLog
from domainvl.console.quiet import quieten
from domainvl.errors import CommandError, near
from domainvl.runs import Run

_UNWRITABLE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission",
}
_DEBUG = "DOMAINVL_DEBUG"


@dataclass
class Session:
    """A checked recipe.

    Attributes:
        parser: Parser that checked it.
        config: The resolved recipe, as jsonargparse has it.
    """

    parser: parsing.RecipeParser
    config: Namespace

    @property
    def values(self) -> dict[str, Any]:
        """The resolved recipe as plain values."""
        return parsing.plain(self.parser, self.config)

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.config.seed_everything)

    def text(self) -> str:
        """The resolved recipe in YAML."""
        return recipes.dump(self.values)

    def without(self, *settings: str) -> None:
        """Set settings of the model to null, where it has them."""
        for name in settings:
            if name in self.config.model.init_args:
                self.config.model.init_args[name] = None

    def set_data(self, name: str, value: Any, option: str) -> None:
        """Set one setting of the data module, for an option of the verb."""
        if name not in self.config.data.init_args:
            owner = self.config.data.class_path.rpartition(".")[2]
            raise CommandError(f"{option}: the data module {owner} has no setting {name!r}, which that needs")
        self.config.data.init_args[name] = value

    def build(self) -> tuple[LightningModule, LightningDataModule, dict[str, Any]]:
        """Seed everything, then make the model, the data module and the arguments of the Trainer."""
        seed_everything(self.seed, workers=True, verbose=False)
        made = self.parser.instantiate(self.config)
        return made.model, made.data, dict(vars(made.trainer))


def open_session(verb: str, arguments: Arguments, recipe: Mapping[str, Any]) -> Session | None:
    """Check a recipe; None when only help or the resolved recipe was asked for and has been printed."""
    quieten()
    allow = arguments.options.get("--allow-import", [])
    parsing.offer_classes(allow)
    if arguments.help is not None:
        print(parsing.class_help(arguments.help, allow))
        return None
    parser, config = parsing.parse(verb, recipe, arguments.overrides)
    session = Session(parser, config)
    if arguments.print_config:
        print(session.text(), end="")
        return None
    _check_root(session)
    return session


def make_trainer(settings: Mapping[str, Any], run: Run, callbacks: Sequence[Callback]) -> Trainer:
    """A Trainer that writes into the run folder and nowhere else."""
    settings = dict(settings)
    given = settings.pop("callbacks") or []
    loggers = settings.pop("logger")
    loggers = [] if loggers in (None, True, False) else loggers if isinstance(loggers, list) else [loggers]
    bar = settings.pop("enable_progress_bar")
    bar = sys.stdout.isatty() if bar is None else bar
    return Trainer(
        **settings,
        callbacks=[
            *(given if isinstance(given, list) else [given]),
            EpochLines(),
            *([RichProgressBar()] if bar else []),
            *callbacks,
        ],
        logger=[CsvLog(run.log), *loggers],
        enable_progress_bar=bar,
        default_root_dir=run.folder,
    )


@contextmanager
def clear_errors(see: str = "") -> Iterator[None]:
    """Show what our own code refuses, and a full disk, in a few lines; anything else keeps its traceback."""
    try:
        yield
    except (CommandError, BrokenPipeError):
        raise
    except OSError as error:
        if error.errno in _UNWRITABLE:
            what = f"cannot write {error.filename}" if error.filename else "cannot write"
            raise CommandError(f"{what}: {_UNWRITABLE[error.errno]}", see=see, status=1) from error
        _refuse_if_ours(error, see)
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        _refuse_if_ours(error, see)
        raise


def _refuse_if_ours(error: BaseException, see: str) -> None:
    """Raise CommandError for what our own code refuses; jsonargparse wraps what constructors say."""
    inner: BaseException | None = error
    while inner is not None and _raised_by(inner.__traceback__) == "jsonargparse":
        inner = inner.__cause__ or inner.__context__
    ours = inner is not None and _raised_by(inner.__traceback__) in ("domainvl", "data_modules")
    if ours and not os.environ.get(_DEBUG):
        raise CommandError(f"{inner}", see=see or f"{_DEBUG}=1 shows where in the code", status=1) from error


def _raised_by(traceback: TracebackType | None) -> str:
    """The package whose code raised."""
    name = ""
    while traceback is not None:
        name = str(traceback.tb_frame.f_globals.get("__name__", ""))
        traceback = traceback.tb_next
    return name.partition(".")[0]


def _check_root(session: Session) -> None:
    """A missing data folder is told before models are loaded."""
    settings = session.config.data.get("init_args") or {}
    root = settings.get("root")
    if not isinstance(root, str | os.PathLike) or Path(root).exists():
        return
    path = Path(root)
    beside = [place.name for place in path.parent.iterdir() if place.is_dir()] if path.parent.is_dir() else []
    raise CommandError(
        f"data.root: the folder {path} does not exist",
        meant=[str(path.parent / name) for name in near(path.name, beside)],
        todo="give --data.root DIR",
    )
