"""`compare RUN RUN ...`: runs on the same patients side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from domainvl.console.arguments import Option, split
from domainvl.errors import CommandError

if TYPE_CHECKING:
    from domainvl.report.comparison import Comparison

_OPTIONS = {
    "--output": Option("FILE", "where the page goes (default: compare.html)"),
    "--reference": Option("N", "the run, from 1, that differences are taken from (default: zero-shot of the first)"),
    "--seed": Option("N", "seed of the bootstrap (default: that of the first run)"),
}
_SEE = "python -m domainvl compare --help"


def main(words: list[str]) -> int:
    """Run `compare`."""
    arguments = split("compare", words, _OPTIONS)
    if arguments.help is not None:
        rows = "\n".join(f"  {f'{name} {option.value}':14s}  {option.text}" for name, option in _OPTIONS.items())
        print(
            "usage: python -m domainvl compare RUN RUN [RUN ...]\n\n"
            "Compare finished runs: a table here and one HTML page, differences paired over the same patients.\n"
            f"Runs on other splits are refused.\n\noptions:\n{rows}"
        )
        return 0
    runs = arguments.recipes
    if len(runs) < 2:
        raise CommandError(f"compare takes two runs or more, got {len(runs)}", see=_SEE)
    reference = _number("--reference", arguments.option("--reference")) or 0
    seed = _number("--seed", arguments.option("--seed"))
    if not 0 <= reference <= len(runs):
        raise CommandError(f"--reference {reference}: there are runs 1 to {len(runs)}; 0 is zero-shot", see=_SEE)
    from domainvl.report.comparison import compare
    from domainvl.report.comparison_page import write_comparison

    found = compare(runs, reference=reference, seed=seed)
    _print(found)
    print(f"wrote {write_comparison(found, Path(arguments.option('--output') or 'compare.html'))}")
    return 0


def _number(name: str, text: str | None) -> int | None:
    if text is not None and not text.isdigit():
        raise CommandError(f"{name} must be a whole number from 0, got {text!r}", see=_SEE)
    return None if text is None else int(text)


def _print(found: Comparison) -> None:
    """A table for each metric; classes are on the page."""
    from domainvl.report.comparison_page import shown_metrics, verdict
    from domainvl.report.names import metric, number, span

    for name in shown_metrics(found):
        print(f"\n{metric(name)[0]}")
        width = max(len(row.name) for row in found.rows)
        for row in found.rows:
            value, change = row.values[name], row.differences.get(name)
            line = f"  {row.name:{width}s}  {number(value.value)} ({span(value)})"
            if change is not None:
                line += f"  {number(change.value, signed=True)} ({span(change, signed=True)})  {verdict(name, change)}"
            print(line.rstrip())
    print(f"\n{found.images} images of {found.patients} patients; differences are paired, from {found.rows[0].name}")
