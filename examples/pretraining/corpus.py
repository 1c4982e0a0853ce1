"""The pretraining pairs: a bank of drawn images, and captions that are worded anew for every batch."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from domainvl.samples.cxr.cases import draw_patients
from domainvl.samples.cxr.reports import report
from pretraining import chest, ct, land, tissue
from pretraining.drawing import PATCH, SIDE
from pretraining.worlds import Caption, Facts, Picture, World

WORLDS: tuple[World, ...] = tuple(cast(World, module) for module in (chest, ct, tissue, land))
MARKED = tuple(fact for world in WORLDS for fact in world.MARKED)
SHARES = (0.64, 0.12, 0.12, 0.12)
"""Share of each domain; chest films have the finest differences and need the most."""

_CHUNK = 250
_CAPTIONS, _PATIENTS = 5000, 300


@dataclass(frozen=True)
class Bank:
    """Drawn images and what is in them.

    Attributes:
        images: ``[N, S, S, 3]``.
        marks: Whether each marked fact touches each patch of the image, ``[N, P, M]``.
        facts: What each image holds.
        domains: Index into ``WORLDS`` for each image.
    """

    images: NDArray[np.uint8]
    marks: NDArray[np.bool_]
    facts: tuple[Facts, ...]
    domains: NDArray[np.int64]

    def present(self, chosen: NDArray[np.int64]) -> list[Facts]:
        """What the chosen images hold, their domain included."""
        return [self.facts[i] | {WORLDS[self.domains[i]].NAME} for i in chosen.tolist()]


@dataclass(frozen=True)
class FactIndex:
    """Numbers for all facts of all domains; being of a domain counts as a fact."""

    columns: dict[str, int]

    @classmethod
    def of(cls, worlds: Iterable[World]) -> FactIndex:
        """Numbers the facts of ``worlds``."""
        names = [name for world in worlds for name in (world.NAME, *world.FACTS)]
        return cls({name: column for column, name in enumerate(names)})

    def rows(self, facts: Iterable[Iterable[str]]) -> NDArray[np.float32]:
        """One row of zeros and ones per set of facts, ``[N, F]``."""
        sets = list(facts)
        table = np.zeros((len(sets), len(self.columns)), dtype=np.float32)
        for row, names in enumerate(sets):
            table[row, [self.columns[name] for name in names]] = 1
        return table


def draw_bank(size: int, *, seed: int, processes: int) -> Bank:
    """Draws ``size`` images; the result does not depend on the number of processes."""
    counts = [round(size * share) for share in SHARES]
    jobs = [
        (world, start, min(_CHUNK, count - start))
        for world, count in enumerate(counts)
        for start in range(0, count, _CHUNK)
    ]
    with ProcessPoolExecutor(max_workers=processes) as pool:
        parts = list(track(pool.map(partial(_draw_chunk, seed), jobs), "drawing cartoons", total=len(jobs)))
    return Bank(
        images=np.concatenate([images for images, _, _ in parts]),
        marks=np.concatenate([marks for _, marks, _ in parts]),
        facts=tuple(facts for _, _, chunk in parts for facts in chunk),
        domains=np.repeat(np.arange(len(WORLDS)), counts),
    )


def word(rng: np.random.Generator, bank: Bank, chosen: NDArray[np.int64]) -> list[Caption]:
    """Words one caption for each chosen image."""
    captions = []
    for i in chosen.tolist():
        world = WORLDS[bank.domains[i]]
        caption = world.describe(rng, bank.facts[i])
        captions.append(Caption(caption.text, caption.present | {world.NAME}, caption.absent))
    return captions


def matches(index: FactIndex, holds: NDArray[np.float32], captions: list[Caption]) -> NDArray[np.bool_]:
    """Which captions are true of which images ``holds [images, facts]``; the result is ``[images, captions]``."""
    stated, denied = index.rows(c.present for c in captions), index.rows(c.absent for c in captions)
    return ((1 - holds) @ stated.T + holds @ denied.T) == 0


def texts(seed: int) -> list[str]:
    """Captions and reports to train the tokenizer on, so that a report later fits the model's context.

    The reports have another seed than the samples' default; the model itself is never shown one.
    """
    rng = np.random.default_rng([seed, 5])
    worlds = [WORLDS[i] for i in rng.choice(len(WORLDS), size=_CAPTIONS, p=SHARES)]
    captions = [world.describe(rng, world.imagine(rng)).text for world in worlds]
    return captions + [
        report(rng, study) for patient in draw_patients(seed + 1, _PATIENTS) for study in patient.studies
    ]


def _draw_chunk(seed: int, job: tuple[int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.bool_], list[Facts]]:
    number, start, count = job
    world = WORLDS[number]
    rng = np.random.default_rng([seed, 4, number, start])
    facts = [world.imagine(rng) for _ in range(count)]
    pictures = [world.draw(rng, held) for held in facts]
    return np.stack([picture.pixels for picture in pictures]), np.stack([_patches(p) for p in pictures]), facts


def _patches(picture: Picture) -> NDArray[np.bool_]:
    """Reduces masks to the model's patches, ``[P, M]``; a patch counts from a tenth of its area on."""
    rows = SIDE // PATCH
    touched = np.zeros((rows * rows, len(MARKED)), dtype=np.bool_)
    for column, fact in enumerate(MARKED):
        if fact in picture.marks:
            blocks = picture.marks[fact].reshape(rows, PATCH, rows, PATCH)
            touched[:, column] = (blocks.mean(axis=(1, 3)) > 0.1).ravel()
    return touched
