"""An alignment row by row on disk."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from domainvl.evaluation.alignment_result import AlignmentPredictions
from domainvl.evaluation.files import prediction_columns, whole_file
from domainvl.evaluation.leakage import Leakage
from domainvl.evaluation.metrics import Floats
from domainvl.evaluation.ranks import Ints
from domainvl.evaluation.retrieval import Retrieval


def write_shared(path: str | os.PathLike[str], found: Sequence[Leakage]) -> None:
    """Write `shared.csv`: up to 20 pairs of ids for everything that two splits, or two data sets, share."""
    with whole_file(Path(path)) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["splits", "what", "first", "second"])
        writer.writerows(row for leakage in found for row in leakage.rows())


def write_alignment(
    path: str | os.PathLike[str], predictions: AlignmentPredictions, retrieved: Sequence[Retrieval]
) -> None:
    """Write `predictions.csv` of an alignment: one row per image.

    Columns: `id`, `patient`; for each model `zero_shot:i2t_rank`, where the image finds its text, and
    `zero_shot:t2i_rank`, where the best of its texts finds it, empty where nothing searches; then the columns of
    `write_predictions` where there are classes, empty for images that have none.

    Args:
        path: The file; its folder must exist.
        predictions: What both models said.
        retrieved: What `retrieve` gave for them.
    """
    pairs, classes = predictions.pairs, predictions.classes
    header, columns = ["id", "patient"], []
    for name, found in zip(("zero_shot", "adapted"), retrieved, strict=False):
        ties = found.protocol.ties
        header += [f"{name}:i2t_rank", f"{name}:t2i_rank"]
        image, text = found.image_to_text, found.text_to_image
        columns.append(_best(len(predictions), image.rows, image.rank(ties)))
        columns.append(_best(len(predictions), pairs.owner_rows[text.rows], text.rank(ties)))
    named: list[str] = []
    scored: dict[str, list[object]] = {}
    if classes is not None:
        named, rows = prediction_columns(classes)
        scored = dict(zip(classes.ids, rows, strict=True))
    with whole_file(Path(path)) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header + named)
        for row, (image_id, patient) in enumerate(zip(pairs.images, pairs.patients, strict=True)):
            ranks = ["" if np.isinf(column[row]) else f"{column[row]:g}" for column in columns]
            writer.writerow([image_id, patient, *ranks, *scored.get(image_id, [""] * len(named))])


def _best(count: int, images: Ints, ranks: Floats) -> Floats:
    """The smallest rank of each image, infinite where there is none."""
    best = np.full(count, np.inf)
    np.minimum.at(best, images, ranks)
    return best
