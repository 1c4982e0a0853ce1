"""Names that a person typed: what was meant, and what there is."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches

_SHOWN = 40


def hint(name: str, known: Collection[str]) -> str:
    """The end of a sentence about an unknown name: `; did you mean 'x'?` when something close is known, else a stop."""
    by_folded = {_folded(candidate): candidate for candidate in known}
    close = get_close_matches(_folded(name), by_folded, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(by_folded[found]) for found in close)}?" if close else "."


def listing(names: Iterable[str]) -> str:
    """Names for an error text, cut where nobody would read on."""
    names = list(names)
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "none") + rest


def _folded(name: str) -> str:
    return name.casefold().replace("_", " ").replace("-", " ").strip()
