"""The same words in two splits: texts that read the same, and texts that are put together from known pieces.

Radiologists write from templates, so a report of a healthy chest stands in every split word for word; that is counted,
not refused. Case, punctuation and white space do not count.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from domainvl.evaluation.ranks import Ints

WORDS = 8
"""Words of a piece; a shorter text is one piece."""
SHARE = 0.8
"""Share of known pieces from which on a text is put together from them."""

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class TextCopies:
    """What `second` has of `first`; rows are those of texts that say something.

    Attributes:
        texts: Texts of `second` that say something.
        same: (row in first, row in second) of texts that read the same.
        pieced: The same of texts whose pieces are known; the first row is that of a text with many of them.
        share: Mean share of known pieces over the texts of `second`.
    """

    texts: int
    same: list[tuple[int, int]]
    pieced: list[tuple[int, int]]
    share: float


def text_copies(first: Sequence[str], second: Sequence[str], words: int = WORDS) -> TextCopies:
    """Look for the texts of one split in another.

    Args:
        first: Texts that may have been learned from.
        second: Texts that must be new.
        words: Length of a piece.
    """
    if words < 1:
        raise ValueError(f"text_copies: words is {words}; give 1 or more")
    read: dict[str, int] = {}
    pieces, owners = array("q"), array("q")
    for row, text in enumerate(first):
        plain = _WORD.findall(text.lower())
        if plain and read.setdefault(" ".join(plain), row) == row:
            found = _pieces(plain, words)
            pieces.extend(found)
            owners.extend([row] * len(found))
    known, place = np.unique(np.asarray(pieces, dtype=np.int64), return_index=True)
    owner = np.asarray(owners, dtype=np.int64)[place]
    same, pieced, shares = [], [], []
    for row, text in enumerate(second):
        plain = _WORD.findall(text.lower())
        if not plain:
            continue
        hits = _owners(known, owner, np.array(_pieces(plain, words), dtype=np.int64))
        shares.append(float((hits >= 0).mean()))
        if (source := read.get(" ".join(plain))) is not None:
            same.append((source, row))
        elif shares[-1] >= SHARE:
            pieced.append((int(np.bincount(hits[hits >= 0]).argmax()), row))
    return TextCopies(len(shares), same, pieced, float(np.mean(shares)) if shares else 0.0)


def _pieces(plain: Sequence[str], words: int) -> list[int]:
    # Python's hash differs between processes, which does not matter: none leaves this one.
    last = max(1, len(plain) - words + 1)
    return [hash(" ".join(plain[start : start + words])) for start in range(last)]


def _owners(known: Ints, owner: Ints, pieces: Ints) -> Ints:
    """The text that each piece was first seen in, -1 for unknown pieces."""
    if not len(known):
        return np.full(len(pieces), -1)
    place = np.minimum(np.searchsorted(known, pieces), len(known) - 1)
    return np.where(known[place] == pieces, owner[place], -1)
