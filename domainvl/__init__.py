"""Adapt pretrained vision-language models to medical and remote-sensing images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from domainvl.fitting import fit
    from domainvl.model import Model, load

__all__ = ["Model", "fit", "load"]
__version__ = "0.1.0"

_HOMES = {"Model": "domainvl.model", "fit": "domainvl.fitting", "load": "domainvl.model"}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: torch takes seconds, and most commands need none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'domainvl' has no attribute {name!r}; it has {', '.join(__all__)}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
