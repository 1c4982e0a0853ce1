"""What splits share that they must not: patients, pictures, and (expected in radiology, so only counted) texts.

`metrics.json`, notes and reprs hold counts only: ids can be names. Up to 20 pairs of ids each are for `shared.csv`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from domainvl.evaluation.image_copies import Fingerprints, copies, identical
from domainvl.evaluation.text_copies import text_copies

SHOWN = 20
_COMPARED = ("patients", "identical_images", "similar_images", "identical_texts", "similar_texts")


@dataclass(frozen=True, eq=False)
class SplitContent:
    """One split, one row per image. Nothing of it is in the repr.

    Attributes:
        ids: Image ids, `[N]`.
        patients: Whose image it is, `[N]`.
        pictures: Fingerprints of the images, `[N]`; None to leave them unchecked.
        texts: Report or caption of each image, `[N]`, empty where there is none; None to leave them unchecked.
    """

    ids: Sequence[str] = field(repr=False)
    patients: Sequence[str] = field(repr=False)
    pictures: Fingerprints | None = field(default=None, repr=False)
    texts: Sequence[str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("patients", "pictures", "texts"):
            rows = getattr(self, name)
            if rows is not None and len(rows) != len(self.ids):
                raise ValueError(f"SplitContent: {len(rows)} {name} for {len(self.ids)} ids; give one per image")


@dataclass(frozen=True)
class Shared:
    """What is in both of two splits.

    Attributes:
        count: Patients, or rows of the second split.
        of: How many were looked at.
        pairs: Up to 20 of them: (id in the first split, id in the second); of patients, the patient twice.
    """

    count: int
    of: int
    pairs: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {"count": self.count, "of": self.of}


@dataclass(frozen=True)
class Overlap:
    """A split compared with one that comes before it. None is what was not checked.

    Attributes:
        patients: In both.
        identical_images: Images of the second split whose very pixels are in the first.
        similar_images: Copies: re-encoded, resized, slightly cropped, turned. Identical ones are not among them.
        identical_texts: Texts of the second split that read as one of the first.
        similar_texts: Other texts of which 80 % of all pieces of 8 words are known from the first.
        known_text: Mean share of known pieces.
    """

    patients: Shared
    identical_images: Shared | None
    similar_images: Shared | None
    identical_texts: Shared | None
    similar_texts: Shared | None
    known_text: float | None

    def parts(self) -> dict[str, Shared | None]:
        """What was compared, by name."""
        return {name: getattr(self, name) for name in _COMPARED}

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON, without ids."""
        counts = {name: None if value is None else value.as_dict() for name, value in self.parts().items()}
        return counts | {"known_text": self.known_text}

    @property
    def leaks(self) -> bool:
        """Whether patients or images are shared."""
        checked = (self.patients, self.identical_images, self.similar_images)
        return any(one is not None and one.count for one in checked)

    def summary(self) -> str:
        """Counts in words, without ids."""
        parts = [f"{self.patients.count} of {self.patients.of} patients"]
        if self.identical_images is not None and self.similar_images is not None:
            copies_too = f"{self.identical_images.count} identical and {self.similar_images.count} similar"
            parts.append(f"{copies_too} of {self.identical_images.of} images")
        if self.identical_texts is not None and self.similar_texts is not None:
            said = f"{self.identical_texts.count} identical and {self.similar_texts.count} similar"
            parts.append(f"{said} of {self.identical_texts.of} texts")
        return ", ".join(parts)


@dataclass(frozen=True)
class Leakage:
    """What splits share.

    Attributes:
        overlaps: By the names of two splits, the earlier one first.
        crops: Whether cropped copies were looked for.
    """

    overlaps: dict[tuple[str, str], Overlap]
    crops: bool

    @property
    def leaks(self) -> bool:
        """Whether any two splits share patients or images."""
        return any(overlap.leaks for overlap in self.overlaps.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON, without ids; keys are `train/test` and so on."""
        return {"crops": self.crops} | {
            f"{first}/{second}": overlap.as_dict() for (first, second), overlap in self.overlaps.items()
        }

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Pairs of ids: the splits, what they share, and the ids in the first and in the second."""
        return [
            (f"{first}/{second}", name, *pair)
            for (first, second), overlap in self.overlaps.items()
            for name, shared in overlap.parts().items()
            if shared is not None
            for pair in shared.pairs
        ]

    def notes(self) -> list[str]:
        """One line per two splits, counts only."""
        return [_note(*names, overlap) for names, overlap in self.overlaps.items()]

    def alarms(self) -> list[str]:
        """The notes on splits that share patients or images."""
        return [_note(*names, overlap) for names, overlap in self.overlaps.items() if overlap.leaks]


def _note(first: str, second: str, overlap: Overlap) -> str:
    kind = "LEAKAGE" if overlap.leaks else "Leakage check"
    return f"{kind}, {second} against {first}: {overlap.summary()} shared."


def check_leakage(splits: Mapping[str, SplitContent], *, crops: bool = True) -> Leakage:
    """Compare every split with those before it.

    Args:
        splits: By name, what is learned from first: train, validate, test.
        crops: Whether to look for copies that lost up to 10 % of a side, or were turned or mirrored; much more work.
    """
    if len(splits) < 2:
        raise ValueError(f"check_leakage: splits are {', '.join(splits) or 'none'}; give two or more")
    overlaps = {
        (first, second): _overlap(splits[first], splits[second], crops) for first, second in combinations(splits, 2)
    }
    return Leakage(overlaps, crops)


def _overlap(first: SplitContent, second: SplitContent, crops: bool) -> Overlap:
    people = set(second.patients)
    both = sorted(set(first.patients) & people)
    same_images = similar_images = same_texts = similar_texts = None
    share = None
    if first.pictures is not None and second.pictures is not None:
        same = identical(first.pictures, second.pictures)
        known = {row for _, row in same}
        near = [pair for pair in copies(first.pictures, second.pictures, crops=crops) if pair[1] not in known]
        same_images, similar_images = (_shared(pairs, len(second.ids), first, second) for pairs in (same, near))
    if first.texts is not None and second.texts is not None:
        found = text_copies(first.texts, second.texts)
        same_texts = _shared(found.same, found.texts, first, second)
        similar_texts = _shared(found.pieced, found.texts, first, second)
        share = found.share
    patients = Shared(len(both), len(people), tuple((name, name) for name in both[:SHOWN]))
    return Overlap(patients, same_images, similar_images, same_texts, similar_texts, share)


def _shared(pairs: Sequence[tuple[int, int]], of: int, first: SplitContent, second: SplitContent) -> Shared:
    return Shared(len(pairs), of, tuple((first.ids[one], second.ids[other]) for one, other in pairs[:SHOWN]))
