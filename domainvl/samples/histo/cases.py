"""Who has what: made-up patients and what their patches show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

KINDS = ("adipose tissue", "glands", "lymphocytes", "necrosis", "stroma", "tumor")
"""What a patch is labelled by."""

_SPLIT_CYCLE = ("train", "test", "train", "validate", "test", "train", "test")
_PATCHES = 3


@dataclass(frozen=True)
class Patch:
    """One patch. ``besides`` are tissues that fill ``share`` of it, from the side at ``angle``."""

    name: str
    kind: str
    besides: tuple[str, ...]
    share: float
    angle: float


@dataclass(frozen=True)
class Patient:
    """A made-up person; all patches are from one slide."""

    name: str
    split: str
    patches: tuple[Patch, ...]


def draw_patients(seed: int, count: int) -> list[Patient]:
    """Draws ``count`` patients; tissues and splits are balanced, everything else is chance."""
    rng = np.random.default_rng([seed, 1])
    splits = [_SPLIT_CYCLE[i % len(_SPLIT_CYCLE)] for i in range(count)]
    patients = []
    for place, i in enumerate(rng.permutation(count).tolist()):
        own = np.random.default_rng([seed, 2, place])
        first = (place + i) % len(KINDS)
        patches = []
        for number in range(_PATCHES):
            kind = KINDS[(first + number) % len(KINDS)]
            others = [name for name in KINDS if name != kind]
            besides = (str(own.choice(others)),) if own.random() < 0.7 else ()
            share, angle = own.uniform(0.25, 0.45), own.uniform(0, 2 * np.pi)
            patches.append(Patch(f"t{number + 1}", kind, besides, float(share), float(angle)))
        patients.append(Patient(f"p{place + 1:04d}", splits[i], tuple(patches)))
    return patients
