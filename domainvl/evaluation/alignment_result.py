"""From embeddings of images and reports to numbers: retrieval, grounding and zero-shot classes, both models at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domainvl.evaluation.bootstrap import resample_metrics
from domainvl.evaluation.grounding import Phrases
from domainvl.evaluation.leakage import Leakage
from domainvl.evaluation.metrics import Floats
from domainvl.evaluation.predictions import Predictions
from domainvl.evaluation.ranks import Ints
from domainvl.evaluation.result import (
    FEW_PATIENTS,
    ClassResult,
    Intervals,
    contrast,
    evaluate,
    headline,
    models_as_dict,
)
from domainvl.evaluation.retrieval import STUDY, Pairs, Retrieval, RetrievalProtocol, plan, same_labels, searched_images

IN_ORGAN = ", in its organ"
"""Ends the name of a class that was looked for in its organ alone; `predictions.csv` has no column for it."""
_RANKED = ("auroc_macro", "auprc_macro")
"""What is counted of classes by organ."""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """What one model makes of the pairs.

    Attributes:
        images: `[N, D]`, of any length.
        texts: `[M, D]`.
    """

    images: NDArray[np.floating] = field(repr=False)
    texts: NDArray[np.floating] = field(repr=False)


@dataclass(frozen=True, eq=False)
class AlignmentPredictions:
    """What two models say about images and their reports.

    Attributes:
        pairs: Which text belongs to which image, of whom.
        zero_shot: The untouched model.
        adapted: The adapted model; None for a zero-shot run.
        classes: Probabilities and labels, where there are classes; may be of some of the images only.
        by_organ: The same for classes that were looked for in their organ alone; not valid where it is not there.
        zero_shot_phrases: Grounding scores of the untouched model, where there are boxes.
        adapted_phrases: The same phrases by the adapted model.
    """

    pairs: Pairs
    zero_shot: Embeddings
    adapted: Embeddings | None = None
    classes: Predictions | None = field(default=None, repr=False)
    by_organ: Predictions | None = field(default=None, repr=False)
    zero_shot_phrases: Phrases | None = None
    adapted_phrases: Phrases | None = None

    def __post_init__(self) -> None:
        expected = (len(self.pairs.images), len(self.pairs.owners))
        for name, rows in (("zero_shot", self.zero_shot), ("adapted", self.adapted)):
            if rows is not None and (len(rows.images), len(rows.texts)) != expected:
                raise ValueError(
                    f"AlignmentPredictions: {name} has {len(rows.images)} images and {len(rows.texts)} texts, the "
                    f"pairs have {expected[0]} and {expected[1]}; embed each row of the pairs"
                )
        adapted = self.adapted is not None
        first, second = self.zero_shot_phrases, self.adapted_phrases
        if (second is not None) != (adapted and first is not None):
            raise ValueError("AlignmentPredictions: phrases must be scored by both models, or by none")
        if first is not None and second is not None and list(first.patients) != list(second.patients):
            raise ValueError("AlignmentPredictions: the two models were not asked for the same phrases in one order")
        if self.classes is not None and (self.classes.adapted is not None) != adapted:
            raise ValueError("AlignmentPredictions: classes must be scored by both models, as pairs are, or by none")

    def __len__(self) -> int:
        return len(self.pairs.images)

    def label_sets(self) -> tuple[Ints, Ints] | None:
        """A class number for every image and every text, where all images have labels."""
        known = self.classes
        if known is None or known.labels is None or list(known.ids) != list(self.pairs.images):
            return None
        numbers = same_labels(known.labels, known.valid) if known.multilabel else known.labels.astype(np.int64)
        return numbers, numbers[self.pairs.owner_rows]


@dataclass(frozen=True)
class AlignmentEvaluation:
    """How well the zero-shot and the adapted model bring images and reports together.

    Attributes:
        zero_shot: Metric name to value and interval: retrieval, then grounding, then classes.
        adapted: The same for the adapted model; None for a zero-shot run.
        difference: Adapted minus zero-shot on the same resamples; None for a zero-shot run.
        per_class: Class name to its result; empty without classes.
        retrieval: How retrieval was counted, with the size of the pool.
        grounding: Counts of phrases and boxes; None without boxes.
        leakage: What training and test share; None where it was not checked.
        notes: What a reader has to know about the numbers.
        counts: Images, texts, patients and phrases.
        resamples: Bootstrap resamples; 0 where one patient allows none.
        seed: Of the bootstrap.
    """

    zero_shot: Intervals
    adapted: Intervals | None
    difference: Intervals | None
    per_class: dict[str, ClassResult]
    retrieval: dict[str, Any]
    grounding: dict[str, Any] | None
    leakage: Leakage | None = field(repr=False)
    notes: list[str]
    counts: dict[str, int]
    resamples: int
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON, with the keys of `Evaluation.as_dict`; what does not exist is None."""
        return models_as_dict(self) | {
            "per_class": {name: result.as_dict() for name, result in self.per_class.items()},
            "retrieval": dict(self.retrieval),
            "grounding": None if self.grounding is None else dict(self.grounding),
            "leakage": None if self.leakage is None else self.leakage.as_dict(),
            "n": dict(self.counts),
            "bootstrap": {"unit": "patient", "resamples": self.resamples, "seed": self.seed, "level": 0.95},
            "notes": list(self.notes),
        }


def retrieve(predictions: AlignmentPredictions, protocol: RetrievalProtocol = STUDY) -> list[Retrieval]:
    """Ranks of the untouched and, where there is one, of the adapted model."""
    pools, labels = plan(predictions.pairs, protocol), predictions.label_sets()
    models = [predictions.zero_shot] + ([] if predictions.adapted is None else [predictions.adapted])
    images = [searched_images(predictions.pairs, protocol, model.images) for model in models]
    return [Retrieval(pools, protocol, rows, model.texts, labels) for rows, model in zip(images, models, strict=True)]


def evaluate_alignment(
    predictions: AlignmentPredictions,
    *,
    seed: int,
    resamples: int = 1000,
    protocol: RetrievalProtocol = STUDY,
    leakage: Leakage | None = None,
    retrieved: Sequence[Retrieval] | None = None,
) -> AlignmentEvaluation:
    """Score both models.

    Args:
        predictions: Embeddings, and what else there is.
        seed: Of the bootstrap over patients.
        resamples: How many resamples the intervals come from.
        protocol: How retrieval is counted.
        leakage: What a check of the data found, to stand beside the numbers.
        retrieved: What `retrieve` gave for the same protocol; made when None.
    """
    found = list(retrieved) if retrieved is not None else retrieve(predictions, protocol)
    pairs = predictions.pairs
    parts = [_compared(found, pairs.query_patients, seed, resamples)]
    phrases = [one for one in (predictions.zero_shot_phrases, predictions.adapted_phrases) if one is not None]
    if phrases:
        parts.append(_compared(phrases, list(phrases[0].patients), seed, resamples))
    classes = None
    if predictions.classes is not None and predictions.classes.labels is not None:
        classes = evaluate(predictions.classes, seed=seed, resamples=resamples)
        parts.append((classes.zero_shot, classes.adapted, classes.difference))
    per_class = {} if classes is None else dict(classes.per_class)
    if predictions.by_organ is not None:
        organs = evaluate(predictions.by_organ, seed=seed, resamples=resamples)
        models = (organs.zero_shot, organs.adapted or {}, organs.difference or {})
        first, second, change = ({_organ(name): one[name] for name in _RANKED if name in one} for one in models)
        parts.append((first, second, change))
        per_class |= {f"{name}{IN_ORGAN}": result for name, result in organs.per_class.items()}
    patients = len(set(pairs.patients))
    counts = {"images": len(pairs.images), "texts": len(pairs.owners), "patients": patients}
    notes = _retrieval_notes(found[0]) + _phrase_notes(phrases) + _patient_notes(patients)
    if classes is not None:
        notes += [note for note in classes.notes if note not in notes]
    return AlignmentEvaluation(
        zero_shot={name: value for part in parts for name, value in part[0].items()},
        adapted=None if predictions.adapted is None else _merged([part[1] for part in parts]),
        difference=None if predictions.adapted is None else _merged([part[2] for part in parts]),
        per_class=per_class,
        retrieval=found[0].facts(),
        grounding=phrases[0].facts() if phrases else None,
        leakage=leakage,
        notes=notes + ([] if leakage is None else leakage.notes()),
        counts=counts | ({"phrases": len(phrases[0])} if phrases else {}),
        resamples=resamples if patients > 1 else 0,
        seed=seed,
    )


def headline_alignment(predictions: AlignmentPredictions, protocol: RetrievalProtocol = STUDY) -> dict[str, float]:
    """Values without intervals, of the adapted model or else of zero-shot; without P@k, cheap enough for each epoch."""
    rows = predictions.zero_shot if predictions.adapted is None else predictions.adapted
    images = searched_images(predictions.pairs, protocol, rows.images)
    found = Retrieval(plan(predictions.pairs, protocol), protocol, images, rows.texts).values()
    phrases = predictions.zero_shot_phrases if predictions.adapted is None else predictions.adapted_phrases
    if phrases is not None:
        found |= phrases.values()
    values = {name: float(value) for name, value in found.items() if np.isfinite(value)}
    values |= {} if predictions.classes is None else headline(predictions.classes)
    if predictions.by_organ is not None:
        by_organ = headline(predictions.by_organ)
        values |= {_organ(name): by_organ[name] for name in _RANKED if name in by_organ}
    return values


def _organ(name: str) -> str:
    return f"organ_{name}"


def _compared(
    models: Sequence[Retrieval | Phrases], patients: list[str], seed: int, resamples: int
) -> tuple[Intervals, Intervals | None, Intervals | None]:
    points: list[dict[str, Floats]] = [model.values() for model in models]
    if len(set(patients)) == 1:
        return contrast(points, [])
    return contrast(points, resample_metrics(models, patients, resamples=resamples, seed=seed))


def _merged(parts: Sequence[Intervals | None]) -> Intervals:
    return {name: value for part in parts if part is not None for name, value in part.items()}


_RULES = {
    "pair": "only an image's own texts count",
    "study": "any image and any report of the study counts",
    "scan": "the images of a study are averaged and count once",
    "unique-text": "every image that carries the text counts",
}


def _retrieval_notes(found: Retrieval) -> list[str]:
    facts, protocol = found.facts(), found.protocol
    pools = f"{facts['pools']} pools, each" if facts["pools"] > 1 else "one pool"
    images, texts = (_size(facts[name]) for name in ("pool_images", "pool_texts"))
    notes = [
        f"Retrieval {protocol.name!r}: {_RULES[protocol.positives]}; {pools} of {images} images and {texts} texts; "
        f"ties: {protocol.ties}{_edits(protocol)}."
    ]
    by_scan = protocol.positives == "scan"
    left = found.images - len(set(found.image_to_text.rows.tolist()))
    if left:
        why = "no text, or left over from the pools" + (", or counted with their scan" if by_scan else "")
        notes.append(f"{left} of {found.images} images do not search: {why}.")
    smallest = int(min(found.image_to_text.gallery.min(), found.text_to_image.gallery.min()))
    sure = [str(k) for k in protocol.ks if k >= smallest]
    if sure:
        notes.append(f"The pool holds {smallest}: R@{', R@'.join(sure)} means nothing.")
    tied = facts["tied"]["images"] + facts["tied"]["texts"]
    queries = facts["queries"]["images"] + facts["queries"]["texts"]
    if tied:
        notes.append(f"{tied} of {queries} searches end in a tie with a wrong item (texts that repeat, mostly).")
    return notes


def _edits(protocol: RetrievalProtocol) -> str:
    words = f"; every text begins with {protocol.prefix!r}" if protocol.prefix else ""
    return words + ("; texts are capitalised" if protocol.capitalise else "")


def _phrase_notes(phrases: Sequence[Phrases]) -> list[str]:
    if not phrases:
        return []
    facts = phrases[0].facts()
    notes = []
    if facts["boxes_outside"]:
        notes.append(
            f"{facts['boxes_outside']} of {facts['boxes']} boxes lie outside what the model sees; "
            f"{facts['phrases_without_box']} of {facts['phrases']} phrases have none left and no score."
        )
    patients = len(set(phrases[0].patients))
    if patients < FEW_PATIENTS:
        notes.append(f"Grounding is of {patients} patients only.")
    return notes


def _patient_notes(patients: int) -> list[str]:
    if patients == 1:
        return ["All images are from one patient, so there are no intervals."]
    return [f"Only {patients} patients: take the intervals for too short."] if patients < FEW_PATIENTS else []


def _size(value: int | list[int]) -> str:
    return str(value) if isinstance(value, int) else f"{value[0]} to {value[1]}"
