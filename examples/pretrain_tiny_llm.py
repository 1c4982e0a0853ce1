"""Trains the built-in tiny language model on made-up reports, scores it on others, and writes its card.

    python examples/pretrain_tiny_llm.py --out domainvl/backbones/tiny_llm

The shipped weights were made by this command with its defaults. A rerun gives the same score up to the rounding of
another machine's arithmetic.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

SMOKE_STEPS, SMOKE_PATIENTS = 4, 60
STEPS, PATIENTS, HELD = 600, 4000, 400


@dataclass(frozen=True)
class Options:
    """The command line."""

    out: Path
    steps: int
    patients: int
    seed: int
    threads: int
    smoke: bool


def parse(arguments: list[str] | None = None) -> Options:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the model; files of the same name are replaced"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="optimisation steps (default %(default)s)")
    parser.add_argument("--patients", type=int, default=PATIENTS, help="people with reports (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of reports and training (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="processor cores to use (default %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="a few steps only, to see that everything runs")
    given = parser.parse_args(arguments)
    for name, least in (("steps", 2), ("patients", 40), ("threads", 1)):
        if getattr(given, name) < least:
            parser.error(f"--{name} must be at least {least}, got {getattr(given, name)}")
    if given.seed < 0:
        parser.error(f"--seed must not be negative, got {given.seed}")
    if given.smoke:
        given.steps, given.patients = SMOKE_STEPS, SMOKE_PATIENTS
    return Options(**vars(given))


def main(arguments: list[str] | None = None) -> None:
    """Writes reports, trains, scores, saves."""
    options = parse(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))

    import torch
    from pretraining import language, language_card
    from pretraining.language_course import Course
    from pretraining.model import train_tokenizer

    began = time.monotonic()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    reports = language.draw_reports(options.patients, options.seed)
    tokenizer = train_tokenizer(reports, language.CONTEXT)
    model = language.build(tokenizer)
    Course(model, tokenizer, options.steps, options.seed).run(reports)
    language.save(options.out, model, tokenizer)

    held = sorted(set(language.draw_reports(HELD, options.seed + 1)) - set(reports))
    model, tokenizer = language.load(options.out)
    found, chance = language.found_impressions(model, tokenizer, held)
    language_card.write(
        options.out,
        model,
        reports=len(reports),
        patients=options.patients,
        held=len(held),
        found=found,
        chance=chance,
        steps=options.steps,
        seed=options.seed,
    )
    minutes = (time.monotonic() - began) / 60
    print(f"findings find their impression: {found:.3f}, by chance {chance:.3f}  ({minutes:.1f} min)")


if __name__ == "__main__":
    main()
