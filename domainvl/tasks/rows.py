"""Evaluation batches put together again, in the order of the data, whichever process made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from domainvl.distributed import gather_objects
from domainvl.evaluation import Predictions


def array(tensor: Tensor) -> np.ndarray:
    """Floats as fp32, everything else as it is."""
    return tensor.detach().float().cpu().numpy() if tensor.is_floating_point() else tensor.detach().cpu().numpy()


class Rows:
    """The batches of all processes.

    Args:
        own: Batches of this process: arrays `[B, ...]` and lists of B things by name, `index` `[B]` among them.
        whole: Whether every process has all batches.
    """

    def __init__(self, own: Sequence[Mapping[str, Any]], whole: bool = False) -> None:
        self._batches = list(own) if whole else [row for part in gather_objects(list(own)) for row in part]
        if self._batches:
            self._order = np.concatenate([row["index"] for row in self._batches]).argsort(kind="stable")

    def __bool__(self) -> bool:
        return bool(self._batches)

    def __contains__(self, key: str) -> bool:
        return key in self._batches[0]

    @property
    def names(self) -> list[str]:
        """What there is."""
        return list(self._batches[0])

    def array(self, key: str) -> np.ndarray | None:
        """`[N, ...]`; None where batches have none."""
        if key not in self:
            return None
        whole: np.ndarray = np.concatenate([row[key] for row in self._batches])[self._order]
        return whole

    def list(self, key: str) -> list[Any]:
        """N things."""
        values = [value for row in self._batches for value in row[key]]
        return [values[position] for position in self._order]

    def predictions(
        self, classes: Sequence[str], multilabel: bool, zero_shot: str = "zero_shot", adapted: str = "adapted"
    ) -> Predictions:
        """Class probabilities, under the names that they have here."""
        probability = self.array(zero_shot)
        if probability is None:
            raise RuntimeError("Rows: an evaluation batch carries no zero-shot scores")
        return Predictions(
            ids=self.list("id"),
            patients=self.list("patient"),
            classes=list(classes),
            multilabel=multilabel,
            labels=self.array("label"),
            valid=self.array("valid"),
            zero_shot=probability,
            adapted=self.array(adapted),
        )
