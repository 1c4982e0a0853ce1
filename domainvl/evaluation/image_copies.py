"""The same picture twice: identical pixels, and copies that were re-encoded, resized, brightened, cropped or turned.

Identical pixels are found by a digest of the array. For copies a picture becomes a grey thumbnail of 48 x 48, and two
steps follow.

1. Candidates: for every picture the three whose coarse structure (63 low DCT coefficients, each against its mean and
   spread over the data, because chest X-rays look alike) has the highest cosine, compared as they are and with 48 parts
   of each other, which lack up to 10 % of a side; and the best of those that are turned or mirrored. Every picture
   meets every other.
2. Each candidate is laid over the picture (`image_agreement`), once as its part and once as its whole. A copy agrees
   with what it was made of everywhere. With how much of that other pictures agree, the data say: the candidates that
   come after the best one of each picture are look-alikes, unless most pictures are there several times.

docs/satellite.md has how many copies of each kind are found, and how many others are taken for one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from domainvl.evaluation.image_agreement import agreement
from domainvl.evaluation.metrics import Floats
from domainvl.evaluation.ranks import Ints
from domainvl.evaluation.thumbnails import SIDE, Thumbs, lines, thumbnail

Ends = tuple[float, float]
Pictures = NDArray[np.uint8]
"""Thumbnails as they are kept."""

_LEAST, _CERTAIN = 0.23, 0.65
"""Agreement below which no pictures are copies, and above which all are; in between it depends on the data."""
_ABOVE = 1.75
"""Times the upper quartile of look-alikes, on top of the least: X-rays of other people agree with less than that."""
_LEAST_TURNED = _LEAST_WHOLE = 0.5
"""The least of pictures that were turned or mirrored, of which there are seven ways to look alike by chance; and of
pictures that must be whole, whose copies agree with nearly all."""
_FREQUENCIES = 8
_TRIED = 3
_WHOLE, _MIDDLE = (0.0, 0.0), (0.025, 0.025)
_ENDS = (_WHOLE, _MIDDLE, (0.0, 0.05), (0.05, 0.0), (0.05, 0.05), (0.0, 0.1), (0.1, 0.0))
"""Shares of a side that may be missing in front and behind, near enough to each other for coarse structure."""
# With fewer, a mean says more about one of them than about what pictures look like.
_ENOUGH = 64
# Cosines, and thumbnails, that are computed with at once.
_PAIRS, _CHUNK = 2**24, 1024


@dataclass(frozen=True, eq=False)
class Fingerprints:
    """What is kept of pictures, 2.3 KB each.

    Attributes:
        digests: Of the exact pixels, `[N]`.
        thumbs: `[N, 48, 48]`, uint8.
    """

    digests: tuple[bytes, ...]
    thumbs: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.digests)

    @classmethod
    def of(cls, pictures: Iterable[NDArray[np.generic]]) -> Fingerprints:
        """Fingerprints of pictures, `[H, W]` or `[H, W, channels]` of any number type, one at a time."""
        found = [(_digest(picture), thumbnail(picture)) for picture in pictures]
        thumbs = np.stack([thumb for _, thumb in found]) if found else np.empty((0, SIDE, SIDE), np.uint8)
        return cls(tuple(digest for digest, _ in found), thumbs)


def identical(first: Fingerprints, second: Fingerprints) -> list[tuple[int, int]]:
    """For every picture of `second` whose very pixels are in `first`, (row in first, row in second)."""
    places: dict[bytes, int] = {}
    for row, digest in enumerate(first.digests):
        places.setdefault(digest, row)
    return [(places[digest], row) for row, digest in enumerate(second.digests) if digest in places]


def copies(first: Fingerprints, second: Fingerprints, *, crops: bool = True) -> list[tuple[int, int]]:
    """For pictures of `second` that are copies of one of `first`, (row in first, row in second).

    Left out are pictures of `second` whose very pixels are in `first` (see `identical`), all but one of pictures with
    the same pixels, and flat ones.

    Args:
        first: Pictures that may have been learned from.
        second: Pictures that must be new.
        crops: Whether copies are found that lost up to 10 % of a side, or were turned or mirrored; much more work.
    """
    # Identical ones are found without this; flat pictures have nothing to compare.
    known = set(first.digests)
    rows = (_to_search(first, set()), _to_search(second, known))
    if not all(len(one) for one in rows):
        return []
    ours, theirs = (part.thumbs[own] for part, own in zip((first, second), rows, strict=True))
    found, turned = _candidates(ours, theirs, crops)
    likeness = np.concatenate(
        [
            _agreements(ours[found[start : start + _CHUNK]], theirs[start : start + _CHUNK], turned[start:], crops)
            for start in range(0, len(theirs), _CHUNK)
        ]
    )
    others = np.sort(np.where(turned > 0, -1.0, likeness), axis=1)[:, int(crops) : -1]
    bar = np.maximum(_bar(others.ravel(), crops), np.where(turned > 0, _LEAST_TURNED, 0.0))
    best = np.where(likeness >= bar, likeness, -1.0).argmax(axis=1)
    return [
        (int(rows[0][found[row, place]]), int(rows[1][row]))
        for row, place in enumerate(best.tolist())
        if likeness[row, place] >= bar[row, place]
    ]


def _agreements(ours: Pictures, theirs: Pictures, turned: Ints, crops: bool) -> Floats:
    """Of pictures `[N, 48, 48]` with their candidates `[N, K, 48, 48]`, whichever is a part of the other, `[N, K]`."""
    count, tried = ours.shape[:2]
    one = ours.reshape(-1, SIDE, SIDE).astype(np.float32)
    other = _turned(np.repeat(theirs, tried, axis=0), turned[:count].ravel()).astype(np.float32)
    found = agreement(one, other, crops=crops)
    if crops:
        found = np.maximum(found, agreement(other, one))
    return found.reshape(count, tried)


def _bar(others: Floats, crops: bool) -> float:
    """The agreement of a copy, from that of candidates that are none; the strictest where there are too few."""
    if len(others) < _ENOUGH:
        return _CERTAIN
    least = _LEAST if crops else _LEAST_WHOLE
    return min(least + _ABOVE * max(0.0, float(np.quantile(others, 0.75))), _CERTAIN)


def _to_search(pictures: Fingerprints, known: Collection[bytes]) -> Ints:
    """Rows of different pictures that show something and are not known."""
    first: dict[bytes, int] = {}
    flat = pictures.thumbs.min(axis=(1, 2)) == pictures.thumbs.max(axis=(1, 2)) if len(pictures) else []
    for row, (digest, empty) in enumerate(zip(pictures.digests, flat, strict=True)):
        if not empty and digest not in known:
            first.setdefault(digest, row)
    return np.array(list(first.values()), dtype=np.int64)


def _candidates(ours: Pictures, theirs: Pictures, crops: bool) -> tuple[Ints, Ints]:
    """For each of their pictures the most similar of ours, and how it is turned to be so, `[N, K]` both."""
    plain = np.concatenate([_coarse(ours), _coarse(theirs)])
    enough = len(plain) >= _ENOUGH
    middle = plain.mean(axis=0) if enough else np.zeros(plain.shape[1])
    spread = np.maximum(plain.std(axis=0), 1e-6)

    def directions(thumbs: Pictures, down: Ends = _WHOLE, across: Ends = _WHOLE) -> Thumbs:
        rows = (_coarse(thumbs, down, across) - middle) / spread
        return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9), dtype=np.float32)

    parts = list(product(_ENDS, _ENDS)) if crops else [(_WHOLE, _WHOLE)]
    known = [directions(ours, *ends) for ends in parts]
    best, turns = [], []
    step = max(1, _PAIRS // (8 * len(ours)))
    for start in range(0, len(theirs), step):
        some = theirs[start : start + step]
        whole = directions(some)
        cosine = whole @ known[0].T
        for ends, other in zip(parts[1:], known[1:], strict=True):
            np.maximum(cosine, whole @ other.T, out=cosine)
            np.maximum(cosine, directions(some, *ends) @ known[0].T, out=cosine)
        near, turn = _nearest(cosine, _TRIED), np.zeros((len(some), min(_TRIED, len(ours))), np.int64)
        if crops:
            # With a place of their own: of what has little structure any turn may look best.
            middle_part = known[parts.index((_MIDDLE, _MIDDLE))]
            ways = [directions(_turned(some, np.full(len(some), way))) for way in range(1, 8)]
            cosines = np.stack([np.maximum(way @ known[0].T, way @ middle_part.T) for way in ways])
            found = _nearest(cosines.max(axis=0), 1)
            near = np.concatenate([near, found], axis=1)
            chosen = cosines[:, np.arange(len(some)), found[:, 0]].argmax(axis=0) + 1
            turn = np.concatenate([turn, chosen[:, None]], axis=1)
        best.append(near)
        turns.append(turn)
    return np.concatenate(best), np.concatenate(turns)


def _nearest(cosines: Thumbs, count: int) -> Ints:
    """The columns of the highest values of every row, in any order."""
    count = min(count, cosines.shape[1])
    return np.asarray(np.argpartition(-cosines, count - 1, axis=1)[:, :count])


def _coarse(thumbs: Pictures, down: Ends = _WHOLE, across: Ends = _WHOLE) -> Thumbs:
    """Low DCT coefficients of parts of thumbnails, without the mean, `[N, 63]`."""
    basis = np.cos(np.pi * (np.arange(SIDE) + 0.5) * np.arange(_FREQUENCIES)[:, None] / SIDE)
    rows, columns = ((basis @ lines(*np.array([ends]).T)[0]).astype(np.float32) for ends in (down, across))
    found = [
        (rows @ thumbs[start : start + _CHUNK].astype(np.float32) @ columns.T).reshape(-1, _FREQUENCIES**2)[:, 1:]
        for start in range(0, len(thumbs), _CHUNK)
    ]
    return np.concatenate(found)


def _turned(thumbs: Pictures, turns: Ints) -> Pictures:
    """Thumbnails turned by quarters (`turn % 4`), and mirrored before that (from 4 on)."""
    found = thumbs.copy()
    for turn in range(1, 8):
        rows = turns == turn
        part = thumbs[rows, :, ::-1] if turn >= 4 else thumbs[rows]
        found[rows] = np.rot90(part, turn % 4, axes=(1, 2))
    return found


def _digest(picture: NDArray[np.generic]) -> bytes:
    if picture.ndim not in (2, 3) or not picture.size:
        raise ValueError(f"Fingerprints: a picture of shape {picture.shape}, expected [H, W] or [H, W, channels]")
    if picture.ndim == 3 and picture.shape[2] > 64:
        raise ValueError(
            f"Fingerprints: {picture.shape[2]} channels in a picture of shape {picture.shape}; of a volume give one "
            "slice or a projection"
        )
    digest = hashlib.sha256(f"{picture.dtype.str} {picture.shape}".encode())
    digest.update(np.ascontiguousarray(picture).data)
    return digest.digest()[:16]
