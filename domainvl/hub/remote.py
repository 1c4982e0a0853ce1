"""Adapters from elsewhere: a folder, a run, or a repository on the Hub; and the model that they stand on."""

from __future__ import annotations

import os
from pathlib import Path

from domainvl.backbones import HuggingFace, OpenClip
from domainvl.backbones._loading import locate
from domainvl.backbones.base import Backbone
from domainvl.hub.card import CARD, AdapterCard
from domainvl.hub.folder import FILES

_KINDS = {"HuggingFace": HuggingFace, "OpenClip": OpenClip}
_BUILTIN = "builtin:"


def located(source: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The adapter folder that is meant, downloaded if need be: only the files of an adapter are.

    Args:
        source: Adapter folder, run folder, or `USER/NAME` on the Hub.
        revision: Branch, tag or commit on the Hub.
    """
    folder = Path(source).expanduser()
    inner = folder / "adapter"
    if not (folder / CARD).exists() and inner.is_dir():
        return inner
    if isinstance(source, os.PathLike) or folder.is_dir():
        return folder
    return locate("domainvl.load", source, revision, FILES).folder


def backbone_of(card: AdapterCard) -> Backbone:
    """The model that an adapter was trained on, found by the name on its card; a path on a card is never followed."""
    spec = card.backbone
    kind, name = _KINDS.get(spec.kind), spec.name.removeprefix("hf-hub:")
    owner, _, rest = name.partition("/")
    on_hub = bool(owner.strip(".") and rest.strip(".")) and "/" not in rest and not owner.startswith("~")
    if kind is None or not (on_hub or name.startswith(_BUILTIN)) or Path(name).exists():
        raise ValueError(
            f"this {card.adapter} adapter stands on {spec.kind}({spec.name!r}), which its name alone does not bring "
            f"back; make the model and pass it: domainvl.load(..., backbone={spec.kind}(...))"
        )
    return kind(name, revision=spec.revision)
