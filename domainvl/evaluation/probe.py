"""Linear probe on frozen features at 1, 10 and 100 % of the training patients.

L2-regularised logistic regression on standardised features, solved to convergence by L-BFGS in double precision:
softmax over classes that exclude each other, or one regression per finding. The objective is that of scikit-learn,
mean loss + 1 / (2 C n) |w|^2, with an intercept that is not penalised; there are no epochs, learning rates or seeds of
an optimiser to tune. C is chosen by the loss on the validation patients alone, thresholds too.

The patients of a smaller share are among those of a larger one, and the shares' hash is published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from domainvl.evaluation import thresholds
from domainvl.evaluation.metrics import Bools, Floats
from domainvl.evaluation.predictions import Predictions
from domainvl.evaluation.sampling import PatientSubset, patient_subsets

if TYPE_CHECKING:
    from torch import Tensor

STRENGTHS = tuple(10.0**power for power in range(-5, 4))
_STEPS = 1000


@dataclass(frozen=True, eq=False)
class ProbeData:
    """Features and labels of one split. Names stay out of the repr.

    Attributes:
        ids: Image ids, `[N]`.
        patients: Whose image it is, `[N]`.
        features: `[N, D]`.
        labels: Class index `[N]`, or 0 and 1 `[N, C]`.
        valid: Which labels are known, `[N, C]`; multi-label only, None when all are.
    """

    ids: Sequence[str] = field(repr=False)
    patients: Sequence[str] = field(repr=False)
    features: NDArray[np.floating] = field(repr=False)
    labels: NDArray[np.generic] = field(repr=False)
    valid: Bools | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        rows = len(self.ids)
        if not rows or not len(self.patients) == len(self.features) == len(self.labels) == rows:
            raise ValueError(
                f"ProbeData: {rows} ids, {len(self.patients)} patients, {len(self.features)} features, "
                f"{len(self.labels)} labels; give one of each per image, and at least one image"
            )
        if not np.isfinite(self.features).all():
            raise ValueError("ProbeData: features hold NaN or infinity; the model that made them diverged")

    def known(self, classes: int) -> Bools:
        """Which labels count, `[N, C]`."""
        return np.ones((len(self.ids), classes), dtype=np.bool_) if self.valid is None else self.valid


@dataclass(frozen=True, eq=False)
class Probe:
    """A probe that was fitted to a share of the training patients.

    Attributes:
        subset: The patients.
        strength: C that the validation patients chose; small is strong regularisation.
        tried: C to mean validation loss.
        thresholds: Best F1 on validation, `[C]`, NaN where validation lacks a label; None for single-label data.
        probabilities: On test, `[N, C]`.
    """

    subset: PatientSubset
    strength: float
    tried: dict[float, float]
    thresholds: Floats | None
    probabilities: Floats = field(repr=False)

    def predictions(self, test: ProbeData, classes: Sequence[str]) -> Predictions:
        """For `evaluate`; the probe stands where a single model stands, under `zero_shot`."""
        multilabel = test.labels.ndim == 2
        return Predictions(
            list(test.ids), list(test.patients), list(classes), multilabel, test.labels, test.valid, self.probabilities
        )


def linear_probe(
    train: ProbeData,
    validation: ProbeData,
    test: ProbeData,
    classes: Sequence[str],
    *,
    fractions: Sequence[float] = (0.01, 0.1, 1.0),
    seed: int = 0,
    strengths: Sequence[float] = STRENGTHS,
) -> list[Probe]:
    """Fit a probe to each share of the training patients.

    Args:
        train: What is learned from.
        validation: What chooses C and thresholds.
        test: What is predicted; its labels are not looked at.
        classes: Names, `[C]`.
        fractions: Shares of the training patients.
        seed: Of the shares.
        strengths: Values of C to try.
    """
    _check_disjoint(train, validation, test)
    if not strengths or min(strengths) <= 0:
        raise ValueError(f"linear_probe: strengths are {tuple(strengths)}; give numbers above 0")
    found = []
    for subset in patient_subsets(train.patients, fractions, seed):
        rows = subset.rows
        features = train.features[rows].astype(np.float64)
        mean, spread = features.mean(axis=0), features.std(axis=0)
        spread[spread == 0] = 1.0
        inputs = [(part.astype(np.float64) - mean) / spread for part in (features, validation.features, test.features)]
        known = train.known(len(classes))[rows]
        _check_labels(train.labels[rows], known, classes, subset.fraction)
        best, tried, weights = float("inf"), {}, None
        start: NDArray[np.float64] | None = None
        # From strong to weak regularisation, each from the last solution.
        for strength in sorted(strengths):
            start = fit_logistic(inputs[0], train.labels[rows], len(classes), strength, known, start)
            tried[strength] = _loss(inputs[1], validation, start)
            if tried[strength] < best:
                best, weights, chosen = tried[strength], start, strength
        if weights is None:
            raise RuntimeError(f"linear_probe: no finite validation loss; tried {tried}")
        tuned = None
        if train.labels.ndim == 2:
            scores = _probabilities(inputs[1], weights, True)
            tuned = thresholds.choose(validation.labels, scores, validation.valid)
        found.append(Probe(subset, chosen, tried, tuned, _probabilities(inputs[2], weights, train.labels.ndim == 2)))
    return found


def fit_logistic(
    features: Floats,
    labels: NDArray[np.generic],
    classes: int,
    strength: float,
    known: Bools,
    start: Floats | None = None,
) -> Floats:
    """Weights and, in the last row, intercepts of a logistic regression, `[D + 1, C]`.

    Args:
        features: `[N, D]`.
        labels: Class index `[N]`, or 0 and 1 `[N, C]`.
        classes: C.
        strength: C of scikit-learn; small is strong regularisation.
        known: Which labels count, `[N, C]`.
        start: Where to begin; zeros when None.
    """
    import torch

    inputs = torch.from_numpy(np.concatenate([features, np.ones((len(features), 1))], axis=1))
    weights = torch.zeros(inputs.shape[1], classes, dtype=torch.float64)
    if start is not None:
        weights = torch.from_numpy(start.copy())
    weights.requires_grad_(True)
    target = torch.from_numpy(np.asarray(labels, dtype=np.float64 if labels.ndim == 2 else np.int64))
    counted = torch.from_numpy(known)
    solver = torch.optim.LBFGS(
        [weights], max_iter=_STEPS, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = _cross_entropy(inputs @ weights, target, counted).sum()
        # Each finding is a regression of its own, with its own number of known labels.
        rows = counted.sum(dim=0).clamp(min=1) if labels.ndim == 2 else torch.full((classes,), len(inputs))
        penalty = (weights[:-1].square().sum(dim=0) / (2 * strength * rows)).sum()
        loss = loss + penalty
        loss.backward()
        return loss

    solver.step(closure)
    return np.asarray(weights.detach().numpy())


def _cross_entropy(scores: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Mean loss over the rows, `[1]`; of findings, of each over its known labels, `[C]`."""
    import torch.nn.functional as F

    if target.dim() == 1:
        return F.cross_entropy(scores, target)[None]
    losses = F.binary_cross_entropy_with_logits(scores, target.where(known, 0.0), reduction="none")
    return (losses * known).sum(dim=0) / known.sum(dim=0).clamp(min=1)


def _loss(features: Floats, data: ProbeData, weights: Floats) -> float:
    import torch

    scores = torch.from_numpy(features @ weights[:-1] + weights[-1])
    kind = np.float64 if data.labels.ndim == 2 else np.int64
    known = data.known(weights.shape[1])
    losses = _cross_entropy(scores, torch.from_numpy(np.asarray(data.labels, dtype=kind)), torch.from_numpy(known))
    return float(losses.mean())


def _probabilities(features: Floats, weights: Floats, multilabel: bool) -> Floats:
    import torch

    scores = torch.from_numpy(features @ weights[:-1] + weights[-1])
    return np.asarray((scores.sigmoid() if multilabel else scores.softmax(dim=1)).numpy())


def _check_disjoint(train: ProbeData, validation: ProbeData, test: ProbeData) -> None:
    named = {"train": train, "validation": validation, "test": test}
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = set(named[first].patients) & set(named[second].patients)
        if shared:
            raise ValueError(
                f"linear_probe: {len(shared)} patients are in {first} and in {second}; split by patient first"
            )
    shapes = {name: (data.features.shape[1:], data.labels.shape[1:]) for name, data in named.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"linear_probe: features and labels per row differ: {shapes}; give the same to all splits")


def _check_labels(labels: NDArray[np.generic], known: Bools, classes: Sequence[str], fraction: float) -> None:
    if labels.ndim == 1:
        missing = [name for number, name in enumerate(classes) if not np.any(labels == number)]
    else:
        yes, no = ((labels == 1) & known).any(axis=0), ((labels == 0) & known).any(axis=0)
        missing = [name for name, both in zip(classes, yes & no, strict=True) if not both]
    if missing:
        raise ValueError(
            f"linear_probe: {100 * fraction:g} % of the training patients lack a label of {', '.join(missing)}; "
            "give a larger share, another seed, or leave the classes out"
        )
