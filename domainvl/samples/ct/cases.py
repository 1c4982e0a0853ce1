"""Who has what: made-up patients, their scans, and the findings that voxels and words are both made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from domainvl.samples.cxr.cases import SIDES, SPLITS, Label

ORGAN_OF: Mapping[str, str] = {
    "Lung nodule": "lungs",
    "Consolidation": "lungs",
    "Emphysema": "lungs",
    "Pleural effusion": "lungs",
    "Cardiomegaly": "heart",
    "Pericardial effusion": "heart",
    "Arterial wall calcification": "aorta",
    "Liver lesion": "liver",
    "Splenomegaly": "spleen",
    "Kidney stone": "kidneys",
    "Ascites": "",
}
"""Finding -> the organ that holds it; free fluid lies between organs."""

FINDINGS = tuple(ORGAN_OF)
NO_FINDING = "No Finding"
ORGANS = ("lungs", "heart", "aorta", "liver", "spleen", "kidneys")
LOBES = ("upper", "lower")

_PRIMARY = (*FINDINGS, *FINDINGS, "", "", "", "")
# Interleaved, so that every run of patients with the same main finding is spread 45/15/40 over the splits.
_SPLIT_CYCLE = tuple(SPLITS[i] for i in (0, 2, 0, 2, 1, 0, 2, 0, 2, 0, 1, 2, 0, 2, 0, 2, 0, 1, 0, 2))
_EXTRA_FINDINGS = (0.25, 0.35, 0.25, 0.15)
_SECOND_SCAN = 0.18
_UNCERTAIN_SHARE = 0.06
_NEGATED_SHARE = 0.8


@dataclass(frozen=True)
class Lesion:
    """One finding in one place. ``severity`` runs from 0 to 1; ``lobe`` matters to what lies in a lung."""

    finding: str
    side: str
    lobe: str
    severity: float

    @property
    def organ(self) -> str:
        """The organ that holds it; empty where none does."""
        return ORGAN_OF[self.finding]


@dataclass(frozen=True)
class Study:
    """One scan: what the report states, and which lesions are really in the voxels."""

    name: str
    labels: Mapping[str, Label]
    lesions: tuple[Lesion, ...]
    contrast: bool
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
    """A made-up person with one or two scans, both in the same split."""

    name: str
    split: str
    studies: tuple[Study, ...]


def draw_patients(seed: int, count: int) -> list[Patient]:
    """Draws ``count`` patients; main findings and splits are balanced, everything else is chance."""
    rng = np.random.default_rng([seed, 1])
    primary = [_PRIMARY[i % len(_PRIMARY)] for i in range(count)]
    order = sorted(rng.permutation(count).tolist(), key=lambda i: primary[i])
    split_of = {patient: _SPLIT_CYCLE[place % len(_SPLIT_CYCLE)] for place, patient in enumerate(order)}
    shuffled = rng.permutation(count)
    return [
        _patient(np.random.default_rng([seed, 2, place]), f"p{place + 1:04d}", split_of[i], primary[i])
        for place, i in enumerate(shuffled.tolist())
    ]


def _patient(rng: np.random.Generator, name: str, split: str, primary: str) -> Patient:
    present: tuple[str, ...] = ()
    if primary:
        others = [finding for finding in FINDINGS if finding != primary]
        extra = int(rng.choice(len(_EXTRA_FINDINGS), p=_EXTRA_FINDINGS))
        present = (primary, *rng.choice(others, size=extra, replace=False).tolist())
    lesions = _lesions(rng, present)
    studies = [_study(rng, "s1", lesions, "")]
    if rng.random() < _SECOND_SCAN:
        lesions, change = _follow_up(rng, lesions)
        studies.append(_study(rng, "s2", lesions, change))
    return Patient(name=name, split=split, studies=tuple(studies))


def _lesions(rng: np.random.Generator, present: tuple[str, ...]) -> tuple[Lesion, ...]:
    """Places findings so that none hides another: each lobe holds one, and what lies under fluid holds none."""
    sides = [str(side) for side in rng.permutation(SIDES)]
    lesions: list[Lesion] = []
    taken: set[tuple[str, str]] = set()
    for finding in FINDINGS:
        if finding not in present:
            continue
        if finding == "Pleural effusion":
            wet = sides if rng.random() < 0.3 else sides[:1]
            lesions += [Lesion(finding, side, "", _severity(rng)) for side in wet]
        elif finding == "Kidney stone":
            lesions.append(Lesion(finding, sides[1], "", _severity(rng)))
        elif finding in ("Lung nodule", "Consolidation"):
            # Upper lobes stay dry, so there is always a place.
            wet = sides if "Pleural effusion" in present else []
            free = [
                (s, lobe) for s in SIDES for lobe in LOBES if (s, lobe) not in taken and not (wet and lobe == "lower")
            ]
            side, lobe = free[int(rng.integers(len(free)))]
            taken.add((side, lobe))
            lesions.append(Lesion(finding, side, lobe, _severity(rng)))
        else:
            lesions.append(Lesion(finding, "", "", _severity(rng)))
    order = {side: place for place, side in enumerate(("", *SIDES))}
    return tuple(sorted(lesions, key=lambda lesion: (FINDINGS.index(lesion.finding), order[lesion.side])))


def _severity(rng: np.random.Generator) -> float:
    return float(rng.uniform(0.15, 1.0))


def _follow_up(rng: np.random.Generator, before: tuple[Lesion, ...]) -> tuple[tuple[Lesion, ...], str]:
    if not before:
        return before, "unchanged"
    change = str(rng.choice(["unchanged", "improved", "worse"], p=[0.5, 0.25, 0.25]))
    factor = {"unchanged": 1.0, "improved": 0.7, "worse": 1.35}[change]
    return tuple(
        replace(lesion, severity=float(np.clip(lesion.severity * factor, 0.12, 1.0))) for lesion in before
    ), change


def _study(rng: np.random.Generator, name: str, lesions: tuple[Lesion, ...], change: str) -> Study:
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
    return Study(name=name, labels=labels, lesions=tuple(seen), contrast=bool(rng.random() < 0.9), change=change)
