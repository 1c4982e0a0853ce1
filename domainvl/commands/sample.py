"""`sample DOMAIN DIR`: procedural sample data as real files."""

from __future__ import annotations

from pathlib import Path

from domainvl.console.arguments import Option, split
from domainvl.errors import CommandError, near

_OPTIONS = {
    "--seed": Option("N", "seed of everything random (default: 0)"),
    "--patients": Option("N", "how many patients (default: the full set)"),
}
_SEE = "python -m domainvl sample --help"


def main(words: list[str]) -> int:
    """Write the samples and say where they are."""
    arguments = split("sample", words, _OPTIONS)
    from domainvl.samples import DOMAINS, write

    if arguments.help is not None:
        rows = "\n".join(f"  {f'{name} {option.value}':14s}  {option.text}" for name, option in _OPTIONS.items())
        print(
            "usage: python -m domainvl sample DOMAIN DIR [--seed N] [--patients N]\n\n"
            f"Write a procedural sample data set.\nDomains: {', '.join(sorted(DOMAINS))}\n\noptions:\n{rows}"
        )
        return 0
    places = [str(place) for place in arguments.recipes]
    if len(places) != 2:
        raise CommandError(f"sample takes DOMAIN and DIR, got {' '.join(places) or 'nothing'}", see=_SEE)
    domain, folder = places
    if domain not in DOMAINS:
        known = ", ".join(sorted(DOMAINS))
        raise CommandError(f"unknown domain {domain!r}; known: {known}", meant=near(domain, DOMAINS), see=_SEE)
    seed, patients = (
        _number("--seed", arguments.option("--seed")),
        _number("--patients", arguments.option("--patients")),
    )
    try:
        written = write(domain, Path(folder), seed=seed or 0, patients=patients)
    except (OSError, ValueError) as error:
        raise CommandError(f"{error}", see=_SEE) from error
    print(f"wrote {written}")
    return 0


def _number(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise CommandError(f"{name} must be a whole number, got {text!r}", see=_SEE) from None
