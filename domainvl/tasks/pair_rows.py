"""What both models said of image-report pairs, from rows to numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from domainvl.evaluation import Predictions
from domainvl.evaluation.alignment_files import write_alignment, write_shared
from domainvl.evaluation.alignment_result import (
    AlignmentEvaluation,
    AlignmentPredictions,
    Embeddings,
    evaluate_alignment,
    retrieve,
)
from domainvl.evaluation.grounding import Phrases, PhraseScore
from domainvl.evaluation.leakage import Leakage
from domainvl.evaluation.outcome import Outcome
from domainvl.evaluation.retrieval import STUDY, Pairs, RetrievalProtocol
from domainvl.evaluation.table import print_alignment
from domainvl.tasks.rows import Rows


def pairs_of(
    rows: Rows, classes: Sequence[str], multilabel: bool, by_organ: Sequence[str] = ()
) -> AlignmentPredictions:
    """Rows of an evaluation in which every image has texts; `by_organ` names the classes looked for in organs."""
    ids, patients = rows.list("id"), rows.list("patient")
    studies = [str(number) for number in rows.list("study")] if "study" in rows else None
    scored = "zero_shot/probability" in rows
    phrases = {name: _phrases(rows, name, patients) for name in ("zero_shot", "adapted")}
    texts = rows.list("text")
    owners = [name for name, said in zip(ids, texts, strict=True) for _ in said]
    zero_shot = _embeddings(rows, "zero_shot")
    if zero_shot is None:
        raise RuntimeError("pairs_of: an evaluation batch carries no embeddings")
    return AlignmentPredictions(
        pairs=Pairs(
            images=ids,
            owners=owners,
            patients=patients,
            studies=studies,
            texts=[text for said in texts for text in said],
        ),
        zero_shot=zero_shot,
        adapted=_embeddings(rows, "adapted"),
        classes=classes_of(rows, classes, multilabel) if scored else None,
        by_organ=_by_organ(rows, classes, by_organ) if "zero_shot/by_organ" in rows else None,
        zero_shot_phrases=phrases["zero_shot"],
        adapted_phrases=phrases["adapted"],
    )


def classes_of(rows: Rows, classes: Sequence[str], multilabel: bool) -> Predictions:
    """Class probabilities of both models."""
    return rows.predictions(classes, multilabel, "zero_shot/probability", "adapted/probability")


def _by_organ(rows: Rows, classes: Sequence[str], chosen: Sequence[str]) -> Predictions | None:
    labels, valid, there = rows.array("label"), rows.array("valid"), rows.array("zero_shot/organ_valid")
    zero_shot = rows.array("zero_shot/by_organ")
    if labels is None or valid is None or there is None or zero_shot is None:
        return None
    columns = [list(classes).index(name) for name in chosen]
    return Predictions(
        ids=rows.list("id"),
        patients=rows.list("patient"),
        classes=list(chosen),
        multilabel=True,
        labels=labels[:, columns],
        valid=valid[:, columns] & there,
        zero_shot=zero_shot,
        adapted=rows.array("adapted/by_organ"),
    )


def _embeddings(rows: Rows, name: str) -> Embeddings | None:
    images = rows.array(f"{name}/image")
    return None if images is None else Embeddings(images, np.concatenate(rows.list(f"{name}/text")))


def _phrases(rows: Rows, name: str, patients: Sequence[str]) -> Phrases | None:
    if f"{name}/phrases" not in rows:
        return None
    of_images: list[list[PhraseScore]] = rows.list(f"{name}/phrases")
    scores = [score for one in of_images for score in one]
    whose = [patient for patient, one in zip(patients, of_images, strict=True) for _ in one]
    return Phrases(whose, scores) if scores else None


class Aligned(Outcome):
    """Retrieval, grounding and classes of both models.

    Args:
        predictions: What they said.
        leakage: What training and test share; None where nothing could be compared.
        protocol: How retrieval is counted.
    """

    def __init__(
        self, predictions: AlignmentPredictions, leakage: Leakage | None, protocol: RetrievalProtocol = STUDY
    ) -> None:
        self.predictions, self.leakage, self.protocol = predictions, leakage, protocol
        self._retrieved = retrieve(predictions, protocol)

    def write(self, path: Path) -> None:
        """See `Outcome`; beside class probabilities, the place at which an image finds its own report.

        What the splits share goes into `shared.csv`: like predictions it holds ids, which no other file does.
        """
        write_alignment(path, self.predictions, self._retrieved)
        if self.leakage is not None:
            write_shared(path.with_name("shared.csv"), [self.leakage])

    def measure(self, seed: int) -> AlignmentEvaluation:
        """See `Outcome`."""
        return evaluate_alignment(
            self.predictions,
            seed=seed,
            protocol=self.protocol,
            leakage=self.leakage,
            retrieved=self._retrieved,
        )

    def show(self, measured: AlignmentEvaluation) -> None:
        """See `Outcome`."""
        print_alignment(measured)
