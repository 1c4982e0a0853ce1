"""Whether one thumbnail is a part of another: they are laid over each other, and compared part by part.

What counts is structure that is small against the picture and not periodic: both spectra are limited to twice their
median. So one road, or fields ploughed alike, are a few frequencies among a thousand, where plain correlation would see
little else.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from domainvl.evaluation.metrics import Floats
from domainvl.evaluation.thumbnails import SIDE, Thumbs, cropped

MOST = 0.125
"""Share of a side that may have been cut away at one end."""

_SCALES = (0.0, 0.025, 0.05, 0.075, 0.1)
_SHIFT = 3
"""Cells by which a part is moved at most from the middle."""
_HOPELESS = 0.15
"""Thumbnails that agree less at the best of all scales and shifts have nothing in common."""
_STEPS = (0.0125, 0.0125, 0.00625, 0.003125)
_AT_ONCE = 1024

Spectra = NDArray[np.complex64]


def agreement(whole: Thumbs, part: Thumbs, *, crops: bool = True) -> Floats:
    """How well pictures agree with a part of others, from about 0 to 1, `[P]`.

    It is the lower quartile, over 16 fields, of the correlation, where the part is laid best. Copies agree everywhere.

    Args:
        whole: Thumbnails that something may have been cut from, up to 10 % of a side.
        part: What may be left of them.
        crops: Whether anything may have been cut away at all.
    """
    found = [
        _agreement(whole[start : start + _AT_ONCE], part[start : start + _AT_ONCE], crops)
        for start in range(0, len(whole), _AT_ONCE)
    ]
    return np.concatenate([np.empty(0), *found])


def _agreement(whole: Thumbs, part: Thumbs, crops: bool) -> Floats:
    wanted = _spectra(part)
    cuts, likeness = _laid(whole, wanted, _SCALES if crops else (0.0,), _SHIFT if crops else 0)
    found = np.zeros(len(whole))
    rows = np.flatnonzero(likeness > _HOPELESS)
    if len(rows):
        refined = _refined(whole[rows], wanted[rows], cuts[rows]) if crops else cuts[rows]
        found[rows] = _everywhere(_spectra(cropped(whole[rows], refined)), wanted[rows])
    return found


def _laid(whole: Thumbs, wanted: Spectra, scales: tuple[float, ...], reach: int) -> tuple[Floats, Floats]:
    """The cuts `[P, 4]` under which thumbnails agree best with spectra, and how well, `[P]`."""
    best, cuts = np.full(len(whole), -1.0), np.zeros((len(whole), 4))
    rows, width = np.arange(len(whole)), 2 * reach + 1
    near = np.arange(-reach, reach + 1)
    for tall in scales:
        for wide in scales:
            middle = np.array([[tall, tall, wide, wide]]) / 2
            moved = np.fft.irfft2(_spectra(cropped(whole, middle)) * wanted.conj(), s=(SIDE, SIDE)) * SIDE**2
            moved = moved[:, near][:, :, near].reshape(len(whole), -1)
            place = moved.argmax(axis=1)
            height = moved[rows, place]
            down, across = (place // width - reach) * (1 - tall) / SIDE, (place % width - reach) * (1 - wide) / SIDE
            here = middle + np.stack([down, -down, across, -across], axis=1)
            better = height > best
            best[better], cuts[better] = height[better], here[better].clip(0, MOST)
    return cuts, best


def _refined(whole: Thumbs, wanted: Spectra, cuts: Floats) -> Floats:
    """Cuts moved in small steps, one end or both, as long as the agreement grows."""
    moves = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, -1, 0, 0], [0, 0, 1, -1]])
    # Limited before they are cut, which is nearly the same and saves most of the work.
    flat, target = (_picture(spectra) for spectra in (_spectra(whole), wanted))

    def likeness(cuts: Floats) -> Floats:
        part = cropped(flat, cuts)
        return np.asarray((part * target).sum(axis=(1, 2)) / np.linalg.norm(part, axis=(1, 2)).clip(min=1e-9))

    best = likeness(cuts)
    for step in _STEPS:
        for move in np.concatenate([moves, -moves]) * step:
            other = (cuts + move).clip(0, MOST)
            found = likeness(other)
            better = found > best
            best[better], cuts[better] = found[better], other[better]
    return cuts


def _everywhere(first: Spectra, second: Spectra) -> Floats:
    one, other = (_fields(_picture(spectra)) for spectra in (first, second))
    return np.quantile((one * other).sum(axis=2), 0.25, axis=1)


def _picture(spectra: Spectra) -> Thumbs:
    return np.fft.irfft2(spectra, s=(SIDE, SIDE)).astype(np.float32)


def _fields(thumbs: Thumbs) -> Thumbs:
    """Thumbnails without their margin to 16 fields, each centred and of length 1, `[P, 16, 121]`."""
    fields = thumbs[:, 2:-2, 2:-2].reshape(-1, 4, 11, 4, 11).transpose(0, 1, 3, 2, 4).reshape(-1, 16, 121)
    fields = fields - fields.mean(axis=2, keepdims=True)
    return np.asarray(fields / np.maximum(np.linalg.norm(fields, axis=2, keepdims=True), 1e-9))


def _spectra(thumbs: Thumbs) -> Spectra:
    """Of what differs from its surroundings; frequencies that stand out are limited, `[P, 48, 25]` of length 1."""
    high = (thumbs - _blur() @ thumbs @ _blur().T) * _window()
    spectra = np.fft.rfft2(high)
    size = np.abs(spectra)
    most = 2 * np.median(size, axis=(1, 2), keepdims=True)
    spectra *= np.minimum(1, most / np.maximum(size, 1e-9))
    spectra[:, 0, 0] = 0
    power = (np.abs(spectra) ** 2 @ _weights()).sum(axis=1)
    return np.asarray(spectra / np.maximum(np.sqrt(power), 1e-9)[:, None, None])


@cache
def _weights() -> Thumbs:
    """How often each column of a half spectrum counts, `[25]`."""
    return np.array([1, *[2] * (SIDE // 2 - 1), 1], np.float32)


@cache
def _window() -> Thumbs:
    """`[48, 48]`, lower towards the margin, which has no counterpart under a shift."""
    line = np.sqrt(np.hanning(SIDE + 8)[4:-4])
    return (line[:, None] * line).astype(np.float32)


@cache
def _blur() -> Thumbs:
    """The mean of five neighbours along a line, `[48, 48]`."""
    places = np.arange(SIDE)
    near = (np.abs(places[:, None] - places) <= 2).astype(np.float32)
    return np.asarray(near / near.sum(axis=1, keepdims=True))
