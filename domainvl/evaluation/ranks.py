"""Where the right answer stands in a ranking by cosine: exact, ties stated, never an N x N matrix.

The cosines are made tile by tile in double precision, so neither the size of a tile, nor the order of the rows, nor a
process-wide switch to TF32 or bf16 products changes a rank. One sweep counts for both directions.

**Ties.** Cosines that differ by no more than `TOLERANCE` are equal: embeddings come in single precision, where the
same text in two batches differs by about 1e-7. Between equals there are two rules:

    expected     equals stand in random order; a recall is the probability of a hit, a rank its expectation. A model
                 that maps everything to one point gets chance.
    pessimistic  every wrong equal stands before the right ones. Such a model gets 0.

The order of a sort, which public code often takes, is neither: rows of a data set that stand in order make it the
best case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from domainvl.evaluation.metrics import Floats

TOLERANCE = 1e-6
_TILE = 1024

Ties = Literal["expected", "pessimistic"]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ranks:
    """Where each query finds its first positive.

    Attributes:
        rows: Which query it is, `[Q]`; a query of several pools occurs once in each.
        above: Gallery items that score more than the best positive, `[Q]`.
        tied: Wrong items that score the same, `[Q]`.
        hits: Positives that score the same, the best one included, `[Q]`.
        gallery: Items that were searched, `[Q]`.
    """

    rows: Ints
    above: Ints
    tied: Ints
    hits: Ints
    gallery: Ints

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def joined(cls, parts: Sequence[Ranks]) -> Ranks:
        """Several pools one after the other."""
        names = ("rows", "above", "tied", "hits", "gallery")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def rank(self, ties: Ties = "expected") -> Floats:
        """Place of the first positive, from 1, `[Q]`."""
        waiting = self.tied / (self.hits + 1) if ties == "expected" else self.tied
        return np.asarray(1.0 + self.above + waiting)

    def hit(self, k: int, ties: Ties = "expected") -> Floats:
        """Whether a positive is among the first k, or how probable that is, `[Q]`."""
        if k < 1:
            raise ValueError(f"Ranks.hit: k is {k}; give 1 or more")
        if ties == "pessimistic":
            return np.asarray((self.rank(ties) <= k).astype(np.float64))
        places = k - self.above
        missed = np.where(self.tied < places, 0.0, 1.0)
        # A draw without replacement: the chance that the first `left` equals are all wrong ones.
        rows = np.flatnonzero((places > 0) & (self.tied >= places))
        left, tied, hits = places[rows], self.tied[rows], self.hits[rows]
        for drawn in range(int(left.max(initial=0))):
            draws = drawn < left
            missed[rows] *= np.where(draws, (tied - drawn) / np.where(draws, tied + hits - drawn, 1.0), 1.0)
        return np.asarray(1.0 - missed)


def both_ways(
    images: NDArray[np.floating], texts: NDArray[np.floating], positives: tuple[Ints, Ints]
) -> tuple[Ranks, Ranks]:
    """Ranks of images that look for texts, and of texts that look for images.

    Args:
        images: Embeddings, `[N, D]`, of any length.
        texts: Embeddings, `[M, D]`.
        positives: Image rows and text rows that belong together, `[P]` each, no pair twice. Rows without any are
            searched among and do not search.
    """
    image_norms, text_norms = _norms(images, "images"), _norms(texts, "texts")
    if images.shape[1] != texts.shape[1]:
        raise ValueError(
            f"retrieval: images have {images.shape[1]} dimensions and texts {texts.shape[1]}; embed "
            "both in the joint space"
        )
    rows, columns = positives
    own = np.empty(len(rows))
    for part in _parts(len(rows)):
        left, right = rows[part], columns[part]
        products = np.einsum("pd,pd->p", _unit(images[left], image_norms[left]), _unit(texts[right], text_norms[right]))
        own[part] = products
    sides = [_Side.of(rows, own, len(images), len(texts)), _Side.of(columns, own, len(texts), len(images))]
    for part in _parts(len(images)):
        block = _unit(images[part], image_norms[part])
        for other in _parts(len(texts)):
            tile = block @ _unit(texts[other], text_norms[other]).T
            sides[0].count(tile, part)
            sides[1].count(tile.T, other)
    return sides[0].ranks(), sides[1].ranks()


@dataclass(frozen=True, eq=False)
class _Side:
    """Counts of one direction."""

    best: Floats
    hits: Ints
    above: Ints
    not_below: Ints
    gallery: int

    @classmethod
    def of(cls, rows: Ints, scores: Floats, queries: int, gallery: int) -> _Side:
        best = np.full(queries, -np.inf)
        np.maximum.at(best, rows, scores)
        hits = np.bincount(rows[scores >= best[rows] - TOLERANCE], minlength=queries)
        return cls(best, hits, np.zeros(queries, np.int64), np.zeros(queries, np.int64), gallery)

    def count(self, tile: Floats, queries: slice) -> None:
        best = self.best[queries, None]
        self.above[queries] += np.count_nonzero(tile > best + TOLERANCE, axis=1)
        self.not_below[queries] += np.count_nonzero(tile >= best - TOLERANCE, axis=1)

    def ranks(self) -> Ranks:
        rows = np.flatnonzero(self.hits)
        above, hits = self.above[rows], self.hits[rows]
        tied = self.not_below[rows] - above - hits
        return Ranks(rows, above, tied, hits, np.full(len(rows), self.gallery, np.int64))


def precision(
    queries: NDArray[np.floating],
    gallery: NDArray[np.floating],
    query_labels: NDArray[np.integer],
    gallery_labels: NDArray[np.integer],
    ks: Sequence[int],
    ties: Ties = "expected",
) -> Floats:
    """Share of the first k gallery items with the label of the query, `[Q, K]`; of all items where k is larger.

    Args:
        queries: Embeddings, `[Q, D]`.
        gallery: Embeddings, `[M, D]`.
        query_labels: One class number per query, `[Q]`.
        gallery_labels: One class number per item, `[M]`.
        ks: How many items are looked at.
        ties: Whether equals at place k count by their share of right ones, or wrong ones first.
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"precision: ks are {tuple(ks)}; give numbers from 1")
    if query_labels.shape != (len(queries),) or gallery_labels.shape != (len(gallery),):
        raise ValueError(
            f"precision: labels are {query_labels.shape} and {gallery_labels.shape}, expected one number per row: "
            f"{(len(queries),)} and {(len(gallery),)}"
        )
    query_norms, gallery_norms = _norms(queries, "queries"), _norms(gallery, "gallery")
    places = np.minimum(ks, len(gallery))
    found = np.empty((len(queries), len(ks)))
    for part in _parts(len(queries), 256):
        block = _unit(queries[part], query_norms[part])
        best = np.empty((len(block), 0))
        for other in _parts(len(gallery)):
            best = np.concatenate([best, block @ _unit(gallery[other], gallery_norms[other]).T], axis=1)
            keep = min(int(places.max()), best.shape[1])
            best = np.partition(best, best.shape[1] - keep, axis=1)[:, -keep:]
        edge = -np.sort(-best, axis=1)[:, places - 1]
        # Above the edge and at it, each as (right, all).
        counts = np.zeros((2, 2, len(block), len(ks)))
        for other in _parts(len(gallery)):
            tile = block @ _unit(gallery[other], gallery_norms[other]).T
            agree = query_labels[part, None] == gallery_labels[None, other]
            for column in range(len(ks)):
                above = tile > edge[:, column, None] + TOLERANCE
                level = ~above & (tile >= edge[:, column, None] - TOLERANCE)
                for number, mask in enumerate((above, level)):
                    counts[number, 0, :, column] += np.count_nonzero(mask & agree, axis=1)
                    counts[number, 1, :, column] += np.count_nonzero(mask, axis=1)
        (right_above, above_all), (right_level, level_all) = counts
        left = places - above_all
        drawn = left * right_level / level_all if ties == "expected" else left - (level_all - right_level)
        found[part] = (right_above + np.maximum(drawn, 0)) / places
    return found


def _parts(count: int, size: int = 0) -> list[slice]:
    size = size or _TILE
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _unit(rows: NDArray[np.floating], norms: Floats) -> Floats:
    return np.asarray(rows.astype(np.float64) / norms[:, None])


def _norms(rows: NDArray[np.floating], name: str) -> Floats:
    if rows.ndim != 2 or not rows.size or not np.issubdtype(rows.dtype, np.floating):
        raise ValueError(f"retrieval: {name} are {rows.dtype} {rows.shape}, expected floats [rows, dimensions]")
    norms = np.empty(len(rows))
    for part in _parts(len(rows)):
        norms[part] = np.linalg.norm(rows[part].astype(np.float64), axis=1)
    wrong = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if wrong.size:
        raise ValueError(
            f"retrieval: {wrong.size} of {len(rows)} rows of {name} have no direction (NaN, infinite or all zero), the "
            f"first is row {wrong[0]}; the model diverged, or its input was empty"
        )
    return norms
