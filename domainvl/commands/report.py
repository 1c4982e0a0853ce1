"""`report RUN`: the page of a finished run."""

from __future__ import annotations

from domainvl.console.arguments import ADAPTER, COMMON, Option, split
from domainvl.errors import CommandError

_OPTIONS = {
    "--images": Option("", "show images and maps"),
    **ADAPTER,
    "--allow-import": COMMON["--allow-import"],
}
_SEE = "python -m domainvl report --help"
_HELP = """\
usage: python -m domainvl report RUN [RUN ...] [--images]

Write RUN/report.html: one file with tables and figures, light and dark, that needs no network. fit, validate and test
write it too; this makes it again from what lies in the run folder, with no model and no data.

A page without --images shows no picture of a patient, no patient id and no report text.

options:
  --images                show images and maps: reads a few images of the test split again, with the model
  --adapter FOLDER        for --images: the adapter that the run measured (default: RUN/adapter)
  --allow-import PACKAGE  for --images: let the recipe name classes of this package; repeatable"""


def main(words: list[str]) -> int:
    """Run `report`."""
    arguments = split("report", words, _OPTIONS)
    if arguments.help is not None:
        print(_HELP)
        return 0
    if not arguments.recipes:
        raise CommandError("report needs a run folder, e.g. python -m domainvl report runs/cxr/1", see=_SEE)
    from domainvl.report import Record, pictured, write_report

    for folder in arguments.recipes:
        seen = None
        if "--images" in arguments.options:
            from domainvl.commands.look import look

            record = Record.read(folder)
            allow = arguments.options.get("--allow-import", [])
            seen = look(record, pictured(record), arguments.option("--adapter"), allow)
        print(f"wrote {write_report(folder, seen)}")
    return 0
