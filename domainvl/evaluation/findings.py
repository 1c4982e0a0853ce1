"""Protocols of finding classification in CT: which classes, what a row is, where thresholds come from.

    CT_RATE_18    the 18 labels of CT-RATE (CT-CLIP, arXiv 2403.17834).
    CT_RATE_16    without "Medical material" and "Lymphadenopathy" (fVLM, arXiv 2501.14548; HLIP, arXiv 2505.21862).

Means over 18 and over 16 classes are not comparable, and neither are rows: CT-RATE's validation split has 3,039
volumes, which are reconstructions of 1,564 scans. `volume` counts every reconstruction, so a scan with three of them
counts three times; `scan` takes the mean of a scan's probabilities. Both are in use; a protocol's `title` says which.

Published F1 and accuracy of CT-CLIP, fVLM and HLIP use thresholds that were chosen on the rows that they report. Here
they come from validation patients, who must not be in the test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from domainvl.evaluation import thresholds
from domainvl.evaluation.bootstrap import Interval, interval, patient_weights
from domainvl.evaluation.metrics import Floats
from domainvl.evaluation.predictions import Predictions
from domainvl.evaluation.result import Evaluation, Intervals, evaluate
from domainvl.evaluation.table import print_means

if TYPE_CHECKING:
    from rich.console import Console

Unit = Literal["volume", "scan"]
FindingProtocolName = Literal["CT-RATE-18", "CT-RATE-18 by scan", "CT-RATE-16", "CT-RATE-16 by scan"]

_CT_RATE = (
    "Medical material",
    "Arterial wall calcification",
    "Cardiomegaly",
    "Pericardial effusion",
    "Coronary artery wall calcification",
    "Hiatal hernia",
    "Lymphadenopathy",
    "Emphysema",
    "Atelectasis",
    "Lung nodule",
    "Lung opacity",
    "Pulmonary fibrotic sequela",
    "Pleural effusion",
    "Mosaic attenuation pattern",
    "Peribronchial thickening",
    "Consolidation",
    "Bronchiectasis",
    "Interlobular septal thickening",
)
_NOT_IN_16 = ("Medical material", "Lymphadenopathy")


def _folded(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").lower().split())


@dataclass(frozen=True)
class FindingProtocol:
    """What is counted.

    Attributes:
        name: Of the set of classes.
        classes: In this order.
        unit: `volume` (every reconstruction is a row) or `scan` (the mean over its reconstructions is).
        rule: How a threshold is chosen on validation: `f1`, or `youden` (sensitivity + specificity).
    """

    name: str
    classes: tuple[str, ...]
    unit: Unit = "volume"
    rule: thresholds.Rule = "f1"

    def __post_init__(self) -> None:
        if self.unit not in ("volume", "scan"):
            raise ValueError(f"FindingProtocol: unit is {self.unit!r}; choose 'volume' or 'scan'")
        if self.rule not in ("f1", "youden"):
            raise ValueError(f"FindingProtocol: rule is {self.rule!r}; choose 'f1' or 'youden'")
        if not self.classes or len({_folded(name) for name in self.classes}) < len(self.classes):
            raise ValueError(f"FindingProtocol: classes are {list(self.classes)}; name each once, and at least one")

    @classmethod
    def named(cls, name: FindingProtocolName) -> FindingProtocol:
        """A protocol that others report under this name."""
        if name not in get_args(FindingProtocolName):
            known = ", ".join(get_args(FindingProtocolName))
            raise ValueError(f"FindingProtocol: {name!r} is no protocol; choose {known}, or describe one")
        classes = CT_RATE_18 if name.startswith(CT_RATE_18.name) else CT_RATE_16
        return replace(classes, unit="scan" if name.endswith("by scan") else "volume")

    @property
    def title(self) -> str:
        """What tables call it: classes and unit."""
        return f"{self.name}, by {self.unit}"

    def columns(self, classes: Sequence[str], spellings: Mapping[str, str] | None = None) -> list[int]:
        """Where a data set has each class of the protocol.

        Args:
            classes: The data set's class names; case, spaces, hyphens and underscores do not count.
            spellings: What the data set calls a class of the protocol, where that is something else.
        """
        theirs = {} if spellings is None else dict(spellings)
        unknown = sorted(set(theirs) - set(self.classes))
        if unknown:
            raise ValueError(
                f"FindingProtocol {self.name}: spellings name {', '.join(unknown)}, which it does not have"
            )
        places = {_folded(name): place for place, name in enumerate(classes)}
        if len(places) < len(classes):
            raise ValueError(f"FindingProtocol {self.name}: two of the classes read the same: {', '.join(classes)}")
        wanted = {name: _folded(theirs.get(name, name)) for name in self.classes}
        missing = [name for name, folded in wanted.items() if folded not in places]
        if missing:
            raise ValueError(
                f"FindingProtocol {self.name}: {len(missing)} of its {len(self.classes)} classes are not there: "
                f"{', '.join(missing)}. There are: {', '.join(classes)}. Say in `spellings` what they are called, or "
                "use `shared`, whose name tells that some are left out"
            )
        return [places[folded] for folded in wanted.values()]

    def shared(self, classes: Sequence[str]) -> FindingProtocol:
        """The part of it that a data set has; its numbers are those of no paper, and its name says so."""
        there = {_folded(name) for name in classes}
        kept = tuple(name for name in self.classes if _folded(name) in there)
        if not kept:
            raise ValueError(f"FindingProtocol {self.name}: the data set has none of its classes")
        if len(kept) == len(self.classes):
            return self
        return replace(self, name=f"{self.name} ({len(kept)} of {len(self.classes)} classes)", classes=kept)

    def apply(
        self,
        predictions: Predictions,
        scans: Sequence[str] | None = None,
        spellings: Mapping[str, str] | None = None,
    ) -> Predictions:
        """Predictions with the protocol's classes and rows.

        Args:
            predictions: Multi-label, with labels, one row per volume.
            scans: The scan that each row is a reconstruction of, unique over all patients; needed by `scan`.
            spellings: See `columns`.
        """
        if not predictions.multilabel or predictions.labels is None:
            raise ValueError(f"FindingProtocol {self.name}: give multi-label predictions with labels")
        places = self.columns(predictions.classes, spellings)
        chosen = replace(
            predictions,
            classes=list(self.classes),
            labels=predictions.labels[:, places],
            valid=None if predictions.valid is None else predictions.valid[:, places],
            zero_shot=predictions.zero_shot[:, places],
            adapted=None if predictions.adapted is None else predictions.adapted[:, places],
        )
        if self.unit == "volume":
            return chosen
        if scans is None or len(scans) != len(predictions) or not all(scans):
            raise ValueError(
                f"FindingProtocol {self.name}: by scan, so give the scan of each of {len(predictions)} rows"
            )
        return _by_scan(chosen, scans)


CT_RATE_18 = FindingProtocol("CT-RATE-18", _CT_RATE)
CT_RATE_16 = FindingProtocol("CT-RATE-16", tuple(name for name in _CT_RATE if name not in _NOT_IN_16))


@dataclass(frozen=True)
class FindingResult:
    """Numbers under a protocol.

    Attributes:
        protocol: Which.
        evaluation: Without thresholds, and at a fixed probability; with intervals over patients.
        thresholds: By model (`zero_shot`, `adapted`), as validation chose them, `[C]`; NaN where it could not.
        tuned: By model, F1 at these thresholds: `f1_macro_tuned`, `f1_weighted_tuned`, `f1_tuned:<class>`.
    """

    protocol: FindingProtocol
    evaluation: Evaluation
    thresholds: Mapping[str, Floats]
    tuned: Mapping[str, Mapping[str, Interval]]

    def means(self) -> dict[str, Intervals]:
        """By model, everything that is not of one class."""
        return {
            name: getattr(self.evaluation, name) | {key: value for key, value in tuned.items() if ":" not in key}
            for name, tuned in self.tuned.items()
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON: means, and thresholds by class; the classes' other numbers are the test's."""
        models: dict[str, Any] = {}
        for name, means in self.means().items():
            chosen = zip(self.protocol.classes, self.thresholds[name].tolist(), strict=True)
            models[name] = {
                "metrics": {metric: value.as_dict() for metric, value in means.items()},
                "thresholds": {finding: None if math.isnan(value) else value for finding, value in chosen},
            }
        return {
            "protocol": self.protocol.title,
            "rule": self.protocol.rule,
            "rows": self.evaluation.images,
            "patients": self.evaluation.patients,
            "models": models,
        }

    def show(self, console: Console | None = None) -> None:
        """Print the means.

        Args:
            console: Where to; standard output when None.
        """
        print_means(self.protocol.title, self.means(), console)


def evaluate_findings(
    protocol: FindingProtocol, test: Predictions, validation: Predictions, *, seed: int, resamples: int = 1000
) -> FindingResult:
    """Score what `FindingProtocol.apply` gave; thresholds come from validation patients.

    Args:
        protocol: Which.
        test: What is reported.
        validation: What thresholds are chosen on; other patients, the same models.
        seed: Of the bootstrap over patients.
        resamples: How many resamples the intervals come from.
    """
    for name, given in (("test", test), ("validation", validation)):
        if given.classes != list(protocol.classes) or given.labels is None:
            raise ValueError(
                f"evaluate_findings: {name} has no labels of just the classes of {protocol.name}; give what its "
                "`apply` returns"
            )
    both = set(test.patients) & set(validation.patients)
    if both:
        raise ValueError(
            f"evaluate_findings: {len(both)} patients are in test and in validation, so thresholds would be chosen on "
            "what they are reported on; split by patient"
        )
    if (test.adapted is None) != (validation.adapted is None):
        raise ValueError(
            "evaluate_findings: one of test and validation has no adapted model; give it in both or neither"
        )
    chosen: dict[str, Floats] = {}
    tuned: dict[str, Mapping[str, Interval]] = {}
    for name, scores, first in (
        ("zero_shot", test.zero_shot, validation.zero_shot),
        ("adapted", test.adapted, validation.adapted),
    ):
        if scores is None or first is None or test.labels is None or validation.labels is None:
            continue
        chosen[name] = thresholds.choose(validation.labels, first, validation.valid, protocol.rule)
        scored = thresholds.ThresholdedF1(test.labels, scores, chosen[name], protocol.classes, test.valid)
        drawn = [scored(weights) for weights in patient_weights(test.patients, resamples, seed)]
        lone = len(set(test.patients)) == 1
        tuned[name] = {
            metric: interval(float(value), None if lone else np.concatenate([part[metric] for part in drawn]))
            for metric, value in scored.values().items()
        }
    return FindingResult(protocol, evaluate(test, seed=seed, resamples=resamples), chosen, tuned)


def _by_scan(predictions: Predictions, scans: Sequence[str]) -> Predictions:
    names, first, owner = np.unique(np.asarray(scans), return_index=True, return_inverse=True)
    labels, known = np.asarray(predictions.labels), predictions.known
    counted = np.where(known, labels, -1)
    differ = (counted != counted[first][owner]).any(axis=1)
    patients = np.asarray(predictions.patients)
    if differ.any() or (patients != patients[first][owner]).any():
        raise ValueError(
            f"FindingProtocol: by scan, but {len(set(owner[differ].tolist()))} scans have reconstructions with "
            "different labels, or of different patients; they share a report, so check what `scans` holds"
        )

    def mean(scores: Floats) -> Floats:
        total = np.zeros((len(names), scores.shape[1]))
        np.add.at(total, owner, scores.astype(np.float64))
        return np.asarray(total / np.bincount(owner)[:, None])

    return replace(
        predictions,
        ids=[str(name) for name in names],
        patients=patients[first].tolist(),
        labels=labels[first],
        valid=None if predictions.valid is None else predictions.valid[first],
        zero_shot=mean(predictions.zero_shot.astype(np.float64)),
        adapted=None if predictions.adapted is None else mean(predictions.adapted.astype(np.float64)),
    )
