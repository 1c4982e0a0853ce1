"""Who is trained on and who is tested on: by patient, seeded, checked, hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from domainvl.data.manifest import SPLITS, Manifest, Record, Split


@dataclass(frozen=True)
class SplitRule:
    """How patients are split where a data set has no split of its own.

    Attributes:
        seed: Seed of the split. Apart from the run's, so that several seeds are compared on the same test patients.
        fractions: Shares of train, validate and test patients.
    """

    seed: int = 0
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)

    def __post_init__(self) -> None:
        if len(self.fractions) != 3 or min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(
                f"SplitRule: fractions is {tuple(self.fractions)}; give three shares for train, validate and test "
                "that add up to 1"
            )


def uniform(key: str, value: str) -> float:
    """A number in [0, 1) that depends on key and value alone."""
    digest = hashlib.blake2b(value.encode(), key=hashlib.sha256(key.encode()).digest(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def patient_split(patient: str, fractions: Sequence[float], seed: int) -> Split:
    """The split of a patient. It depends on nobody else, so patients who join later move no one."""
    place = uniform(f"split:{seed}", patient)
    train, validate, _ = fractions
    return "train" if place < train else "validate" if place < train + validate else "test"


def assigned(manifest: Manifest, rule: SplitRule) -> Manifest:
    """Every record with a split: the data set's own, or a patient split where it has none."""
    without = sum(record.split is None for record in manifest.records)
    if without and without < len(manifest.records):
        row = next(record.row for record in manifest.records if record.split is None)
        raise ValueError(
            f"{manifest.name}: {without} of {len(manifest.records)} rows name no split, the first is row {row}; "
            "fill the split column in, or name no split column to have patients split for you"
        )
    if without:
        records = (
            replace(one, split=patient_split(one.patient, rule.fractions, rule.seed)) for one in manifest.records
        )
        return replace(manifest, records=tuple(records))
    if manifest.carve and all(record.split != "validate" for record in manifest.records):
        key = f"carve:{rule.seed}"
        records = (
            replace(one, split="validate")
            if one.split == "train" and uniform(key, one.patient) < manifest.carve
            else one
            for one in manifest.records
        )
        return replace(manifest, records=tuple(records))
    return manifest


def check_disjoint(manifest: Manifest) -> None:
    """Raise when a patient is in two splits, naming three of them."""
    where: dict[str, set[str]] = {}
    for record in manifest.records:
        where.setdefault(record.patient, set()).add(record.split or "")
    leaked = [patient for patient, splits in where.items() if len(splits) > 1]
    if leaked:
        named = "; ".join(
            f"{patient!r} in {' and '.join(split for split in SPLITS if split in where[patient])}"
            for patient in leaked[:3]
        )
        raise ValueError(
            f"{manifest.name}: {len(leaked)} of {len(where)} patients are in more than one split ({named}); their "
            "test scores would be memory. Correct the split column, or leave it out to have patients split for you"
        )


def split_hash(records: Iterable[Record]) -> str:
    """Twelve hex digits over which image is in which split; the order of rows does not matter."""
    digest = hashlib.sha256()
    for line in sorted(f"{record.split}\t{record.key}\n" for record in records):
        digest.update(line.encode())
    return digest.hexdigest()[:12]
