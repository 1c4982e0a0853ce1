"""Who has what: made-up patients, their studies, and the findings that pixels and words are both made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

FINDINGS = ("Cardiomegaly", "Pleural Effusion", "Pneumothorax", "Consolidation", "Lung Lesion")
NO_FINDING = "No Finding"
SIDES = ("right", "left")
ZONES = ("upper", "mid", "lower")
SPLITS = ("train", "validate", "test")

_UNCERTAIN_SHARE = 0.09
_NEGATED_SHARE = 0.65


class Label(Enum):
    """What a report says of a finding, as CheXpert writes it."""

    POSITIVE = "1"
    NEGATIVE = "0"
    UNCERTAIN = "-1"
    UNMENTIONED = ""


@dataclass(frozen=True)
class Lesion:
    """One finding in one place. ``severity`` runs from 0 to 1; ``zone`` matters to opacities only."""

    finding: str
    side: str
    zone: str
    severity: float


@dataclass(frozen=True)
class Study:
    """One visit: what the report states, and which lesions are really in the pixels."""

    name: str
    labels: Mapping[str, Label]
    lesions: tuple[Lesion, ...]
    views: tuple[str, ...]
    change: str

    def lesions_of(self, finding: str) -> tuple[Lesion, ...]:
        """The lesions of one finding, right before left."""
        return tuple(lesion for lesion in self.lesions if lesion.finding == finding)

    @property
    def normal(self) -> bool:
        """Whether the report neither states nor suspects anything."""
        return all(label in (Label.NEGATIVE, Label.UNMENTIONED) for label in self.labels.values())


@dataclass(frozen=True)
class Patient:
    """A made-up person with one or more studies, all in the same split."""

    name: str
    split: str
    studies: tuple[Study, ...]


@dataclass(frozen=True)
class Population:
    """Who comes to this hospital.

    Attributes:
        primary: Main findings, in turn; an empty one is a healthy patient.
        splits: Splits, in turn, of patients ordered by main finding: short runs are spread like long ones.
        extra: Probabilities of 0, 1 and 2 further findings.
        visits: Probabilities of 1, 2 and 3 studies.
        laterals: Whether there are pictures from the side.
        salt: Keeps its people apart from those of other populations with the same seed.
    """

    primary: tuple[str, ...]
    splits: tuple[str, ...]
    extra: tuple[float, float, float]
    visits: tuple[float, float, float]
    laterals: bool
    salt: tuple[int, ...] = ()


ARCHIVE = Population(
    primary=("", *FINDINGS, *FINDINGS, "", *FINDINGS, "", "", ""),
    splits=tuple(SPLITS[i] for i in (0, 2, 0, 2, 1, 0, 2, 0, 2, 0, 1, 2, 0, 2, 0, 2, 0, 1, 0, 2)),
    extra=(0.40, 0.40, 0.20),
    visits=(0.66, 0.25, 0.09),
    laterals=True,
)
"""A mixed archive, split 45/15/40: for a few labels and a test that says something."""

WARD = Population(
    primary=(*FINDINGS, *FINDINGS, *FINDINGS, ""),
    splits=tuple(SPLITS[i] for i in (0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0)),
    extra=(0.10, 0.40, 0.50),
    visits=(1.0, 0.0, 0.0),
    laterals=False,
    salt=(1,),
)
"""Sick patients with several findings in different places, split 80/5/15: for reports that can be told apart."""


def draw_patients(seed: int, count: int, population: Population = ARCHIVE) -> list[Patient]:
    """Draws ``count`` patients; main findings and splits are balanced, everything else is chance."""
    rng = np.random.default_rng([seed, 1, *population.salt])
    primary = [population.primary[i % len(population.primary)] for i in range(count)]
    order = sorted(rng.permutation(count).tolist(), key=lambda i: primary[i])
    splits = population.splits
    split_of = {patient: splits[place % len(splits)] for place, patient in enumerate(order)}
    shuffled = rng.permutation(count)
    return [
        _patient(
            np.random.default_rng([seed, 2, place, *population.salt]),
            f"p{place + 1:04d}",
            split_of[i],
            primary[i],
            population,
        )
        for place, i in enumerate(shuffled.tolist())
    ]


def _patient(rng: np.random.Generator, name: str, split: str, primary: str, population: Population) -> Patient:
    present: tuple[str, ...] = ()
    if primary:
        others = [finding for finding in FINDINGS if finding != primary]
        extra = int(rng.choice(3, p=population.extra))
        present = (primary, *rng.choice(others, size=extra, replace=False).tolist())
    studies: list[Study] = []
    lesions = _lesions(rng, present)
    for visit in range(1 + int(rng.choice(3, p=population.visits))):
        change = ""
        if visit:
            lesions, change = _follow_up(rng, lesions)
        studies.append(_study(rng, f"s{visit + 1}", lesions, change, population.laterals))
    return Patient(name=name, split=split, studies=tuple(studies))


def _lesions(rng: np.random.Generator, present: tuple[str, ...]) -> tuple[Lesion, ...]:
    """Places findings so that none hides another: fluid and free air take a lung each, the rest what is left."""
    sides = list(rng.permutation(SIDES))
    lesions: list[Lesion] = []
    if "Cardiomegaly" in present:
        lesions.append(Lesion("Cardiomegaly", "", "", _severity(rng)))
    if "Pneumothorax" in present:
        lesions.append(Lesion("Pneumothorax", str(sides[0]), "", _severity(rng)))
    if "Pleural Effusion" in present:
        both = "Pneumothorax" not in present and rng.random() < 0.25
        lesions += [Lesion("Pleural Effusion", str(s), "", _severity(rng)) for s in (sides if both else sides[1:])]
    wet = {lesion.side for lesion in lesions if lesion.finding == "Pleural Effusion"}
    airy = {lesion.side for lesion in lesions if lesion.finding == "Pneumothorax"}
    taken: set[tuple[str, str]] = {(side, "lower") for side in wet} | {(side, "upper") for side in airy}
    for finding in ("Consolidation", "Lung Lesion"):
        if finding in present:
            free = [(side, zone) for side in SIDES for zone in ZONES if (side, zone) not in taken]
            side, zone = free[int(rng.integers(len(free)))]
            taken.add((side, zone))
            lesions.append(Lesion(finding, side, zone, _severity(rng)))
    return tuple(
        sorted(lesions, key=lambda lesion: (FINDINGS.index(lesion.finding), SIDES.index(lesion.side or "right")))
    )


def _severity(rng: np.random.Generator) -> float:
    return float(rng.uniform(0.15, 1.0))


def _follow_up(rng: np.random.Generator, before: tuple[Lesion, ...]) -> tuple[tuple[Lesion, ...], str]:
    if not before:
        return before, "unchanged"
    change = str(rng.choice(["unchanged", "improved", "worse", "resolved"], p=[0.4, 0.25, 0.25, 0.1]))
    if change == "resolved":
        return (), change
    factor = {"unchanged": 1.0, "improved": 0.7, "worse": 1.35}[change]
    return tuple(
        replace(lesion, severity=float(np.clip(lesion.severity * factor, 0.12, 1.0))) for lesion in before
    ), change


def _study(rng: np.random.Generator, name: str, lesions: tuple[Lesion, ...], change: str, laterals: bool) -> Study:
    labels: dict[str, Label] = {}
    seen = list(lesions)
    for finding in FINDINGS:
        own = [lesion for lesion in lesions if lesion.finding == finding]
        if own and rng.random() < _UNCERTAIN_SHARE:
            # A doubted finding is there in half of the cases, and then only just.
            faint = [replace(lesion, severity=0.05) for lesion in own] if rng.random() < 0.5 else []
            seen = [lesion for lesion in seen if lesion.finding != finding] + faint
            labels[finding] = Label.UNCERTAIN
        elif own:
            labels[finding] = Label.POSITIVE
        else:
            labels[finding] = Label.NEGATIVE if rng.random() < _NEGATED_SHARE else Label.UNMENTIONED
    portable = rng.random() < 0.4
    views: tuple[str, ...] = ("AP",) if portable else ("PA",)
    if laterals and not portable and rng.random() < 0.45:
        views += ("LATERAL",)
    elif portable and rng.random() < 0.12:
        views += ("AP",)
    return Study(name=name, labels=labels, lesions=tuple(seen), views=views, change=change)
