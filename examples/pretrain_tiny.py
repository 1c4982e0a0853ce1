"""Pretrains the built-in tiny vision-language model on cartoons, scores it on the samples, and writes its card.

    python examples/pretrain_tiny.py --out domainvl/backbones/tiny

The shipped weights were made by this command with its defaults. A rerun gives the same scores up to the rounding of
another machine's arithmetic.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

SMOKE_STEPS, SMOKE_IMAGES = 4, 400
STEPS, IMAGES = 2400, 30000


@dataclass(frozen=True)
class Options:
    """The command line."""

    out: Path
    steps: int
    images: int
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
    parser.add_argument("--images", type=int, default=IMAGES, help="cartoons to draw (default %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of drawing, wording and training (default %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="processor cores to use (default %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="a few steps only, to see that everything runs")
    given = parser.parse_args(arguments)
    for name in ("steps", "images", "threads"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(given, name)}")
    if given.seed < 0:
        parser.error(f"--seed must not be negative, got {given.seed}")
    if given.smoke:
        given.steps, given.images = SMOKE_STEPS, SMOKE_IMAGES
    return Options(**vars(given))


def main(arguments: list[str] | None = None) -> None:
    """Draws, trains, scores, saves."""
    options = parse(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))

    import torch
    from pretraining import card, corpus, model, scoring, training

    from domainvl import samples

    began = time.monotonic()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    bank = corpus.draw_bank(options.images, seed=options.seed, processes=options.threads)
    tokenizer = model.train_tokenizer(corpus.texts(options.seed))
    network = model.build_model(tokenizer)
    training.pretrain(network, tokenizer, bank, steps=options.steps, seed=options.seed)
    model.save(options.out, network, tokenizer)

    films = scoring.read_films(samples.cached("cxr"), "test")
    network, tokenizer, processor = model.load(options.out)
    scores = scoring.zero_shot_auroc(network, tokenizer, processor, films)
    minutes = (time.monotonic() - began) / 60
    card.write(options.out, network, scores, films, steps=options.steps, images=options.images, seed=options.seed)
    for finding, value in scores.items():
        print(f"{finding:20s} {value:.3f}")
    macro = math.fsum(scores.values()) / len(scores)
    print(f"zero-shot macro AUROC on the chest X-ray samples' test split: {macro:.3f}  ({minutes:.1f} min)")


if __name__ == "__main__":
    main()
