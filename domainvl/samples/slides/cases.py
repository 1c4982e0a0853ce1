"""Who has what: made-up patients, their slides, and the lesion that is planted in each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LESIONS = ("tumor", "lymphocytes", "necrosis")
"""What a slide is labelled by."""

_SPLIT_CYCLE = ("test", "train", "test", "validate", "train", "test", "train")
_SECOND_SLIDE = 0.1
_RESOLUTIONS = (0.5, 0.4952, 0.4657)
_SVS_EVERY = 4


@dataclass(frozen=True)
class Slide:
    """One slide. ``mpp`` is in microns per pixel; ``svs`` says that it is written as Aperio's scanners do."""

    name: str
    lesion: str
    mpp: float
    svs: bool


@dataclass(frozen=True)
class Patient:
    """A made-up person with one or two slides of the same lesion, both in the same split."""

    name: str
    split: str
    slides: tuple[Slide, ...]


def draw_patients(seed: int, count: int) -> list[Patient]:
    """Draws ``count`` patients; lesions and splits are balanced, everything else is chance."""
    rng = np.random.default_rng([seed, 1])
    lesions = [LESIONS[i % len(LESIONS)] for i in range(count)]
    splits = [_SPLIT_CYCLE[i // len(LESIONS) % len(_SPLIT_CYCLE)] for i in range(count)]
    patients = []
    for place, i in enumerate(rng.permutation(count).tolist()):
        own = np.random.default_rng([seed, 2, place])
        slides = [
            Slide(f"s{number + 1}", lesions[i], float(own.choice(_RESOLUTIONS)), place % _SVS_EVERY == 0)
            for number in range(1 + (own.random() < _SECOND_SLIDE))
        ]
        patients.append(Patient(f"p{place + 1:04d}", splits[i], tuple(slides)))
    return patients
