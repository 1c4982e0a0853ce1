"""Single objects of a finished run, made again from its own config.yaml, which is as trusted as a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser

from domainvl import recipes
from domainvl.backbones.base import Backbone
from domainvl.console import parser as parsing
from domainvl.data.module import DataModule
from domainvl.runs import Run


def run_backbone(run: Run, allow: Sequence[str]) -> Backbone:
    """The model of a run: it may lie in a folder that no card tells of.

    Args:
        run: The run.
        allow: The user's own packages that its config names.
    """
    made: Backbone = _made(Backbone, recipes.load([run.config])["model"]["init_args"]["backbone"], allow)
    return made


def run_data(run: Run, allow: Sequence[str]) -> DataModule:
    """The data module of a run, which knows how its images are read; its own images need not be there any more."""
    made: DataModule = _made(DataModule, recipes.load([run.config])["data"], allow)
    return made


def _made(kind: type, settings: Any, allow: Sequence[str]) -> Any:
    parsing.offer_classes(allow)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(kind, "part", required=True)
    return parser.instantiate(parser.parse_object({"part": settings})).part
