"""Protocols of few-shot papers: which classes are trained on, how numbers become one. Standard library only.

few-shot               train on k shots of all classes, test on all of them; a curve over k.
base-to-novel          the first ceil(C / 2) of the sorted class names are base, the rest novel (CoOp's and CoCoOp's
                       cut). Shots are drawn before the cut, as Dassl does, so both protocols share their images.
                       Train on base; test base images among base names, novel images among novel names.
cross-dataset          train on one data set, test on others with their own classes.
domain-generalisation  the same, with the classes of the training.

Classes that were not trained on are scored as `Adapter.logits(novel=True)` says: by MMRL's class head alone, for one.
An adapter that knows only its own classes (a probe, a cache) has no number there.

Multi-label data (findings that co-occur) have no base-to-novel protocol of their own. The usual one rests on what they
lack: an image has one class, so a cut of classes is a cut of images, and classes compete within their half. Ours asks
the same question, whether words carry what was learned over to findings without labels:

- Findings are cut by name as classes are. Each is a yes-or-no decision with two prompts of its own, so "among base
  names" changes no score; what changes is which findings were trained.
- Of the images drawn, those that show a novel finding and no base finding leave the training, as a single-label image
  of a novel class does. One that shows both stays, without its novel labels. Leaving those out too, as generalised
  zero-shot papers on ChestX-ray14 do, would make k shots fewer than k and take the sicker patients out of the base
  findings. So novel here means "never labelled", not "never seen".
- Every test image counts for every finding, as in any multi-label test; numbers are mean AUROCs.

Such numbers may be compared with each other and with zero-shot on the same cut, not with accuracies of single-label
papers.

The harmonic mean has two readings that differ by 1 to 2 points, and printed tables mix them: of the mean base and the
mean novel value over data sets (CoOp, MaPLe, MMRL), and the mean of every data set's own. The first is the rule here;
the second stands beside it under its own name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def cut_classes(classes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Base and novel class names: the first half of the sorted names, the larger one, and the rest."""
    if len(classes) < 2:
        raise ValueError(
            f"base-to-novel needs at least two classes, got {len(classes)}: {', '.join(classes) or 'none'}"
        )
    ordered = sorted(classes)
    half = math.ceil(len(ordered) / 2)
    return ordered[:half], ordered[half:]


def harmonic_mean(base: float, novel: float) -> float:
    """2 b n / (b + n); 0 where both are 0."""
    for name, value in (("base", base), ("novel", novel)):
        if not 0 <= value <= 1:
            raise ValueError(f"harmonic_mean: {name} is {value}; give shares from 0 to 1")
    return 2 * base * novel / (base + novel) if base + novel else 0.0


@dataclass(frozen=True)
class Harmonic:
    """Base and novel values of several data sets in one number, both ways.

    Attributes:
        base: Mean over data sets.
        novel: Mean over data sets.
        of_means: Harmonic mean of these two; the rule.
        mean_of: Mean of the data sets' own harmonic means.
        datasets: How many there are.
    """

    base: float
    novel: float
    of_means: float
    mean_of: float
    datasets: int

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> Harmonic:
        """From one (base, novel) pair per data set."""
        if not pairs:
            raise ValueError("Harmonic.of: no data sets")
        base = sum(pair[0] for pair in pairs) / len(pairs)
        novel = sum(pair[1] for pair in pairs) / len(pairs)
        own = sum(harmonic_mean(*pair) for pair in pairs) / len(pairs)
        return cls(base, novel, harmonic_mean(base, novel), own, len(pairs))


@dataclass(frozen=True)
class Spread:
    """A mean over seeds with its 95 % interval by Student's t; no interval for one seed."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """From one value per seed."""
        n = len(values)
        if not n:
            raise ValueError("Spread.of: no values")
        mean = math.fsum(values) / n
        if n == 1:
            return cls(mean, None, None, 1)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
        reach = t_quantile(n - 1) * deviation / math.sqrt(n)
        return cls(mean, mean - reach, mean + reach, n)


def t_quantile(freedom: int, level: float = 0.95) -> float:
    """How many standard errors a two-sided interval of Student's t reaches, for whole degrees of freedom."""
    if freedom < 1:
        raise ValueError(f"t_quantile: freedom is {freedom}; it must be at least 1")
    low, high = 0.0, 1.0
    while _within(high, freedom) < level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """P(|T| < t), the finite sums of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    square = math.cos(angle) ** 2
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for step in range((freedom - odd) // 2):
        total += term
        term *= square * ((2 * step + 2) / (2 * step + 3) if odd else (2 * step + 1) / (2 * step + 2))
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
