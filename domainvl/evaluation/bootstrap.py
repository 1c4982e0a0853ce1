"""95 % intervals from a bootstrap over patients.

Images of one patient look alike, so drawing images would pretend to more evidence than there is. Patients are
drawn with replacement, all images of a drawn patient enter as often as the patient was drawn, and the interval is the
2.5th to 97.5th percentile over the resamples. Two models are compared on the same draws (paired).

A class that has lost one of its labels in a resample is left out of that resample's means, as it is left out of the
point value when it has only one label to begin with.

The percentile interval is right for what is nearly unbiased. Measured on 600 made-up studies of 50 patients with 1 to
6 images, 500 resamples, nominal 95 %: it held the truth in 92-94 % for AUROC, AUPRC, accuracies and F1 (75-85 % had
images been drawn), and in 93-94 % for their differences. Calibration error is the exception: noise in its bins only
ever adds, so it held the truth in 57 % (84 % at 150 patients, 93 % at 1000). `evaluate` notes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from domainvl.evaluation.metrics import Floats, Values
from domainvl.evaluation.weighted import WeightedMetrics

LEVEL = 0.95
# Weights of this many cells (2 MB) stay in the cache of a core; measured flat from a quarter to four times that.
_CELLS = 2**18

Progress = Callable[[int, int], None]
"""Called with resamples done and resamples in all."""


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval; None where it does not exist."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        """Plain numbers for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


def patient_weights(patients: Sequence[str], resamples: int, seed: int) -> Iterator[Floats]:
    """How often each row enters each resample, in chunks `[r, N]` that add up to `resamples` rows.

    Neither the order of the rows nor the size of the chunks changes what is drawn for a patient.
    """
    if resamples < 1:
        raise ValueError(f"patient_weights: resamples is {resamples}, expected 1 or more")
    if seed < 0:
        raise ValueError(f"patient_weights: seed is {seed}, expected 0 or more")
    names, index = np.unique(np.asarray(patients), return_inverse=True)
    seeds = np.random.SeedSequence(seed).spawn(resamples)
    chunk = max(1, _CELLS // len(patients))
    for start in range(0, resamples, chunk):
        counts = [_draw(one, len(names)) for one in seeds[start : start + chunk]]
        yield np.stack(counts).take(index, axis=1).astype(np.float64)


def _draw(seed: np.random.SeedSequence, patients: int) -> np.ndarray:
    drawn = np.random.Generator(np.random.PCG64(seed)).integers(patients, size=patients)
    return np.bincount(drawn, minlength=patients)


def resample(
    models: Sequence[WeightedMetrics],
    patients: Sequence[str],
    *,
    resamples: int,
    seed: int,
    progress: Progress | None = None,
) -> list[Values]:
    """Metrics of every model on the same resamples, with a leading axis `[resamples]`."""
    chunks: list[list[Values]] = [[] for _ in models]
    done = 0
    for weights in patient_weights(patients, resamples, seed):
        for model, found in zip(models, chunks, strict=True):
            found.append(model(weights))
        done += len(weights)
        if progress is not None:
            progress(done, resamples)
    return [
        Values(
            {name: np.concatenate([part.overall[name] for part in found]) for name in found[0].overall},
            {name: np.concatenate([part.per_class[name] for part in found]) for name in found[0].per_class},
        )
        for found in chunks
    ]


def resample_metrics(
    models: Sequence[Callable[[Floats], dict[str, Floats]]],
    patients: Sequence[str],
    *,
    resamples: int,
    seed: int,
    progress: Progress | None = None,
) -> list[dict[str, Floats]]:
    """Metrics that are functions of row weights `[R, N]`, of every model on the same resamples, `[resamples]` each."""
    chunks: list[list[dict[str, Floats]]] = [[] for _ in models]
    done = 0
    for weights in patient_weights(patients, resamples, seed):
        for model, found in zip(models, chunks, strict=True):
            found.append(model(weights))
        done += len(weights)
        if progress is not None:
            progress(done, resamples)
    return [{name: np.concatenate([part[name] for part in found]) for name in found[0]} for found in chunks]


def interval(value: float, samples: Floats | None) -> Interval:
    """Percentile interval around a point value.

    Args:
        value: The value on all rows; NaN where it does not exist.
        samples: The value on each resample, `[R]`, NaN where it does not exist; None to give no interval.
    """
    if np.isnan(value):
        return Interval(None)
    found = np.empty(0) if samples is None else samples[~np.isnan(samples)]
    if not len(found):
        return Interval(float(value))
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(found, [tail, 100 - tail])
    return Interval(float(value), float(low), float(high))
