"""The front door: finds the verb and hands over. Only the standard library is imported here, so that help is quick."""

from __future__ import annotations

import argparse
import importlib
import os
import select
import sys
from collections.abc import Callable, Sequence
from typing import cast

from domainvl import __version__
from domainvl.errors import CommandError, near

__all__ = ["VERBS", "main"]

VERBS: dict[str, tuple[str, str]] = {
    "fit": ("domainvl.commands.fit:main", "adapt a model to labelled images, then test it beside zero-shot"),
    "validate": ("domainvl.commands.evaluate:validate", "measure on the validation split"),
    "test": ("domainvl.commands.evaluate:test", "measure on the test split"),
    "predict": ("domainvl.commands.predict:main", "write class probabilities for images without labels, however many"),
    "prepare": ("domainvl.commands.prepare:main", "make a data set's volumes as the model takes them, before any run"),
    "map": ("domainvl.commands.map:main", "score the tiles of a satellite scene and write a georeferenced map"),
    "benchmark": (
        "domainvl.commands.benchmark:main",
        "compare adapters over shots and seeds; can be killed and goes on",
    ),
    "embed": (
        "domainvl.commands.embed:main",
        "write features of images and texts, and of slides ahead of training",
    ),
    "leakage": (
        "domainvl.commands.leakage:main",
        "look for patients, images and texts that splits or data sets share",
    ),
    "report": ("domainvl.commands.report:main", "write a run's page: one HTML file to look at and to share"),
    "compare": (
        "domainvl.commands.compare:main",
        "set runs on the same patients side by side, with paired differences",
    ),
    "export": (
        "domainvl.commands.export:main",
        "write a run's adapter to share: PEFT pair, merged model, ONNX, Hugging Face Hub",
    ),
    "doctor": ("domainvl.commands.doctor:main", "show versions, devices, readers and caches; clear caches"),
    "sample": ("domainvl.commands.sample:main", "write a procedural sample data set as real files"),
}
"""Verb -> (`module:function` that takes the rest of the command line, one line of help)."""

_EXAMPLES = """\
examples:
  python -m domainvl fit recipes/cxr.yaml
  python -m domainvl fit recipes/cxr.yaml --data.shots 4 --model.adapter LoRA
  python -m domainvl test recipes/cxr.yaml --adapter runs/cxr/1/adapter
  python -m domainvl VERB --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after the program's name; those of this process when None.

    Returns:
        The exit status: 0 done, 1 failed, 2 a wrong command line or recipe, 130 or 143 interrupted, 141
        nobody reads the output any more.
    """
    try:
        status = _run(list(sys.argv[1:] if argv is None else argv))
        # Here and not when the interpreter ends, where nobody could catch what this may raise.
        sys.stdout.flush()
        return status
    except CommandError as error:
        print(error.text(), file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        if not _unread():
            raise
        return 141


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        _parser().print_help()
        return 0
    if words[0] == "--version":
        print(f"domainvl {__version__}")
        return 0
    verb, *rest = words
    return _load(verb)(rest)


def _unread() -> bool:
    """Whether the reader of what this process says has gone (`| head`); what is left to say is then dropped."""
    gone = False
    for stream in (sys.stdout, sys.stderr):
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
            gone = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    return gone


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m domainvl",
        usage="python -m domainvl VERB [RECIPE ...] [--key value ...]",
        description="Adapt pretrained vision-language models to medical and remote-sensing images.",
        epilog="verbs:\n" + "\n".join(f"  {verb:11s}{text}" for verb, (_, text) in VERBS.items()) + f"\n\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    return parser


def _load(verb: str) -> Callable[[list[str]], int]:
    if verb not in VERBS:
        raise CommandError(
            f"unknown {'option' if verb.startswith('-') else 'verb'} {verb!r}; verbs are {', '.join(VERBS)}",
            meant=near(verb, [*VERBS, "--help", "--version"]),
            see="python -m domainvl --help",
        )
    module, _, function = VERBS[verb][0].partition(":")
    return cast("Callable[[list[str]], int]", getattr(importlib.import_module(module), function))
