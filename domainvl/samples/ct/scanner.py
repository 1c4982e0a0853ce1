"""From a body to files: which grids a scan is reconstructed in, their noise, and how they are stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from domainvl.samples.canvas import Field
from domainvl.samples.ct.solids import Grid

Affine = NDArray[np.float64]

_CODES = ("LPS", "RAS", "LAS", "RPI", "LPS", "RSA", "LAI", "RAS")
_WORLD = ("RL", "AP", "SI")
_HEIGHT, _WIDTH = 332.0, 384.0
"""Field of view in millimetres, from feet to head and across."""
_SECOND, _DICOM, _OBLIQUE = 0.22, 0.12, 0.18
"""Shares: scans with a second reconstruction; reconstructions as DICOM; scans with a turned field of view."""


@dataclass(frozen=True)
class Reconstruction:
    """One volume of a scan.

    Attributes:
        name: `soft` (smooth) or `sharp`.
        place: Columns, rows and slices to millimetres of the scanner, ``[4, 4]``.
        body: The same to millimetres of the body, ``[4, 4]``.
        shape: Slices, rows and columns.
        noise: Standard deviation in Hounsfield units.
        dicom: Whether it is stored as a DICOM series; else as NIfTI.
    """

    name: str
    place: Affine
    body: Affine
    shape: tuple[int, int, int]
    noise: float
    dicom: bool

    @property
    def grid(self) -> Grid:
        """Its voxels in the body."""
        return Grid(self.body, self.shape)


def draw_reconstructions(rng: np.random.Generator) -> list[Reconstruction]:
    """Draws how one scan is reconstructed: once, or twice in different grids."""
    turned = float(rng.uniform(-0.14, 0.14)) if rng.random() < _OBLIQUE else 0.0
    # Where the table stood: scanners count from an arbitrary place.
    shift = np.array([rng.uniform(-15, 15), rng.uniform(-170, -130), rng.uniform(-900, 400)])
    kinds = [("soft", 9.0, (5.5, 7.5))]
    if rng.random() < _SECOND:
        kinds.append(("sharp", 26.0, (4.5, 5.5)))
    return [_reconstruction(rng, name, noise, thick, turned, shift) for name, noise, thick in kinds]


def _reconstruction(
    rng: np.random.Generator, name: str, noise: float, thick: tuple[float, float], turned: float, shift: Affine
) -> Reconstruction:
    pixel, slab = float(rng.uniform(3.8, 4.3)), float(rng.uniform(*thick))
    dicom = bool(rng.random() < _DICOM)
    code = "LPS" if dicom else _CODES[int(rng.integers(len(_CODES)))]
    steps = {"RL": pixel, "AP": pixel, "SI": slab}
    lengths = {"RL": round(_WIDTH / pixel), "AP": round(0.78 * _WIDTH / pixel), "SI": round(_HEIGHT / slab)}
    axes, counts = np.zeros((3, 3)), []
    for column, letter in enumerate(code):
        pair = next(pair for pair in _WORLD if letter in pair)
        axes[_WORLD.index(pair), column] = steps[pair] * (1 if letter in "RAS" else -1)
        counts.append(lengths[pair])
    cosine, sine = np.cos(turned), np.sin(turned)
    axes = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]) @ axes
    body = np.eye(4)
    # Headers hold 32-bit numbers; what is drawn should lie where they say.
    body[:3, :3] = axes.astype(np.float32)
    middle = rng.uniform(-4, 4, 3) + np.array([0, -4, 0])
    body[:3, 3] = middle - body[:3, :3] @ ((np.array(counts) - 1) / 2)
    place = body.copy()
    place[:3, 3] += shift
    return Reconstruction(name, place, body, (counts[2], counts[1], counts[0]), noise, dicom)


def exposed(rng: np.random.Generator, hounsfield: Field, noise: float) -> NDArray[np.int16]:
    """Adds the scanner's noise and rounds; air outside the body stays clean, as scanners mask it."""
    grain = rng.standard_normal(hounsfield.shape, dtype=np.float32)
    grain *= np.where(hounsfield < -985, np.float32(0), np.float32(noise))
    return np.rint(np.clip(hounsfield + grain, -1024, 3071)).astype(np.int16)
