"""The heavy half of `embed`."""

from __future__ import annotations

import sys
from typing import Any

import torch

from domainvl.backbones.base import Backbone
from domainvl.console.arguments import Arguments
from domainvl.console.session import clear_errors, open_session
from domainvl.console.signals import Interrupted, interruptible
from domainvl.data.embedding import Embeds
from domainvl.errors import CommandError


def embed(arguments: Arguments, recipe: dict[str, Any]) -> int:
    """Check the recipe, then let its data module embed everything that it holds.

    Args:
        arguments: The command line.
        recipe: The merged recipe.
    """
    session = open_session("embed", arguments, recipe)
    if session is None:
        return 0
    session.without("adapter", "objectives", "optimizer", "schedule")
    try:
        with clear_errors(), interruptible():
            module, data, settings = session.build()
            if not isinstance(data, Embeds):
                raise CommandError(
                    f"embed: {type(data).__name__} reads its images as they are and has nothing to embed",
                    todo="use `fit` or `test`, which keep what the image tower says of small images by themselves",
                )
            backbone = getattr(module, "backbone", None)
            if not isinstance(backbone, Backbone):
                raise CommandError(f"embed: {type(module).__name__} has no backbone to embed by")
            done = data.embed(backbone, _device(settings))
    except Interrupted as stop:
        print(f"\nstopped by {stop}; the same command goes on", file=sys.stderr, flush=True)
        return stop.status
    speed = f", {done.tiles / done.seconds:,.0f} tiles/s" if done.tiles else ""
    print(f"embedded {done.made} ({done.tiles:,} tiles{speed}), there already {done.there}, rejected {done.rejected}")
    print(f"features: {done.folder}", flush=True)
    return 0


def _device(settings: dict[str, Any]) -> torch.device:
    """Where the recipe's Trainer would run."""
    wanted = settings.get("accelerator", "auto")
    cuda = wanted in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.device("cuda" if cuda else "cpu")
