"""Which images and patients an evaluation is made on: drawn by names and seed alone, with a hash to publish.

A draw depends neither on the order of the rows nor on who else is there more than it must: each name has its own place,
a keyed hash, and the first places win. So two groups with the same data, seed and rule have the same sample, and the
hash shows it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from domainvl.evaluation.metrics import Bools
from domainvl.evaluation.ranks import Ints


@dataclass(frozen=True, eq=False)
class ClassSample:
    """A class-balanced sample of images that show exactly one class.

    Attributes:
        rows: Rows of the images, class by class, `[C * n]`.
        labels: The class of each, `[C * n]`.
        classes: Names, `[C]`.
        digest: Twelve hex digits over classes and image ids; the same for the same images.
        seed: Of the draw.
    """

    rows: Ints = field(repr=False)
    labels: Ints = field(repr=False)
    classes: tuple[str, ...]
    digest: str
    seed: int


def exclusive_sample(
    ids: Sequence[str],
    patients: Sequence[str],
    labels: NDArray[np.generic],
    classes: Sequence[str],
    wanted: Sequence[str],
    *,
    per_class: int = 200,
    seed: int = 0,
    valid: Bools | None = None,
    one_per_patient: bool = True,
) -> ClassSample:
    """Draw `per_class` images of each wanted class that show this class and, of all classes, no other.

    CheXpert 5x200 is this with five findings of fourteen and 200 images; the lists in use differ with the seed, so the
    digest has to stand beside the number. A label that is not known may be positive, so such an image is not
    exclusive; a policy that calls blanks negative makes them known.

    Args:
        ids: One unique id per image, `[N]`.
        patients: Whose image it is, `[N]`.
        labels: 0 and 1, `[N, C]`.
        classes: Names of the columns, `[C]`.
        wanted: Classes to draw, some or all of `classes`.
        per_class: Images of each.
        seed: Of the draw.
        valid: Which labels are known, `[N, C]`; None when all are.
        one_per_patient: Whether a patient may give one image to a class only.
    """
    if labels.shape != (len(ids), len(classes)) or len(patients) != len(ids):
        raise ValueError(
            f"exclusive_sample: labels {labels.shape} and {len(patients)} patients for {len(ids)} ids and "
            f"{len(classes)} classes; give one row per image and one column per class"
        )
    unknown = [name for name in wanted if name not in classes]
    if unknown or not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(
            f"exclusive_sample: wanted is {', '.join(wanted) or 'empty'}; give different ones of {', '.join(classes)}"
        )
    if per_class < 1:
        raise ValueError(f"exclusive_sample: per_class is {per_class}; give 1 or more")
    known = np.ones(labels.shape, dtype=np.bool_) if valid is None else valid
    positive = np.asarray(labels == 1) & known
    exclusive = (positive.sum(axis=1) == 1) & known.all(axis=1)
    rows: list[int] = []
    for name in wanted:
        usable = np.flatnonzero(exclusive & positive[:, list(classes).index(name)]).tolist()
        usable.sort(key=lambda row: _place(f"exclusive:{seed}:{name}", ids[row]))
        if one_per_patient:
            first: dict[str, int] = {}
            for row in usable:
                first.setdefault(patients[row], row)
            usable = list(first.values())
        if len(usable) < per_class:
            who = "patients have" if one_per_patient else "images show"
            advice = "fewer per_class, or one_per_patient=False" if one_per_patient else "fewer per_class"
            raise ValueError(
                f"exclusive_sample: only {len(usable)} {who} {name!r} alone, {per_class} are asked for; give {advice}"
            )
        rows += usable[:per_class]
    numbers = np.repeat(np.arange(len(wanted)), per_class)
    lines = (f"{wanted[number]}\t{ids[row]}" for row, number in zip(rows, numbers.tolist(), strict=True))
    return ClassSample(np.array(rows, dtype=np.int64), numbers, tuple(wanted), names_hash(lines), seed)


@dataclass(frozen=True, eq=False)
class PatientSubset:
    """Some of the patients, with all of their images.

    Attributes:
        fraction: Share of the patients that was asked for.
        rows: Rows of their images, in order.
        patients: How many there are.
        digest: Twelve hex digits over the patients; the same for the same patients.
    """

    fraction: float
    rows: Ints = field(repr=False)
    patients: int
    digest: str


def patient_subsets(
    patients: Sequence[str], fractions: Sequence[float] = (0.01, 0.1, 1.0), seed: int = 0
) -> list[PatientSubset]:
    """Shares of the patients (rounded up), each a part of every larger one; in the order of `fractions`.

    Args:
        patients: Whose each row is, `[N]`.
        fractions: Shares above 0 and up to 1.
        seed: Of the order in which patients join.
    """
    if not fractions or not all(0 < fraction <= 1 for fraction in fractions):
        raise ValueError(f"patient_subsets: fractions are {tuple(fractions)}; give shares above 0 and up to 1")
    if not len(patients):
        raise ValueError("patient_subsets: no patients")
    order = sorted(set(patients), key=lambda name: _place(f"subset:{seed}", name))
    place = {name: number for number, name in enumerate(order)}
    joined = np.array([place[name] for name in patients])
    found = []
    for fraction in fractions:
        # 0.1 * 30 is a little more than 3.
        count = math.ceil(fraction * len(order) - 1e-9)
        found.append(PatientSubset(fraction, np.flatnonzero(joined < count), count, names_hash(order[:count])))
    return found


def names_hash(names: Iterable[str]) -> str:
    """Twelve hex digits over names, in any order."""
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(f"{name}\n".encode())
    return digest.hexdigest()[:12]


def _place(key: str, name: str) -> tuple[bytes, str]:
    return hashlib.blake2b(name.encode(), key=hashlib.sha256(key.encode()).digest(), digest_size=8).digest(), name
