"""`report RUN`: the page of a finished run."""

from __future__ import annotations

from domainvl.commands.arguments import Option, split
from domainvl.errors import CommandError

_OPTIONS: dict[str, Option] = {}
_SEE = "python -m domainvl report --help"
_HELP = """\
usage: python -m domainvl report RUN [RUN ...]

Write RUN/report.html: one file with tables and figures, light and dark, that needs no network. fit, validate and test
write it too; this makes it again from what lies in the run folder, with no model and no data."""


def main(words: list[str]) -> int:
    """Run `report`."""
    arguments = split("report", words, _OPTIONS)
    if arguments.help is not None:
        print(_HELP)
        return 0
    if not arguments.recipes:
        raise CommandError("report needs a run folder, e.g. python -m domainvl report runs/cxr/1", see=_SEE)
    from domainvl.report import write_report

    for folder in arguments.recipes:
        print(f"wrote {write_report(folder)}")
    return 0
