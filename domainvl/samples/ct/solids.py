"""Solids in a scanner's grid: where voxels lie, which of them a shape fills, and how it is painted.

Lengths are millimetres; x runs to the patient's right, y to the front, z to the head. Arrays are ``[D, H, W]``: slices,
rows, columns. Shapes are signed distances (negative inside), so that what is drawn does not depend on the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from domainvl.samples.canvas import Field

Point = tuple[float, float, float]
Part = tuple[slice, slice, slice]
Extent = tuple[Point, Point]
"""Lowest and highest x, y, z."""

EDGE = 2.5
"""Half of the width of an edge: voxels on it are filled in part."""
_SEEN = 0.4
"""From this opacity on a voxel belongs to a box."""


class Shape(Protocol):
    """Something with a border."""

    @property
    def extent(self) -> Extent:
        """A box that holds all of it."""

    def signed(self, x: Field, y: Field, z: Field) -> Field:
        """Signed distance of points."""


@dataclass(frozen=True)
class Ellipsoid:
    """A superellipsoid along the axes: an ellipsoid at power 2, nearly a box at 6."""

    centre: Point
    radii: Point
    power: float = 2.0

    @property
    def extent(self) -> Extent:
        """See ``Shape``."""
        return _around(self.centre, self.radii)

    def signed(self, x: Field, y: Field, z: Field) -> Field:
        """See ``Shape``; exact for spheres, scaled by the smallest radius otherwise."""
        power = np.float32(self.power)
        terms = []
        for at, centre, radius in zip((x, y, z), self.centre, self.radii, strict=True):
            scaled = np.abs((at - np.float32(centre)) * np.float32(1 / radius))
            terms.append(scaled * scaled if self.power == 2 else np.power(scaled, power))
        total = terms[0] + terms[1] + terms[2]
        norm = np.sqrt(total) if self.power == 2 else np.power(total, 1 / power)
        return (norm - 1) * np.float32(min(self.radii))

    def scaled(self, factor: float) -> Ellipsoid:
        """The same, larger or smaller about its centre."""
        x, y, z = self.radii
        return Ellipsoid(self.centre, (x * factor, y * factor, z * factor), self.power)

    def thicker(self, rim: float) -> Ellipsoid:
        """The same with a rim of some millimetres."""
        x, y, z = self.radii
        return Ellipsoid(self.centre, (x + rim, y + rim, z + rim), self.power)


@dataclass(frozen=True)
class Capsule:
    """All points within ``radius`` of a line."""

    start: Point
    end: Point
    radius: float

    @property
    def extent(self) -> Extent:
        """See ``Shape``."""
        ends = np.array([self.start, self.end])
        return point(ends.min(axis=0) - self.radius), point(ends.max(axis=0) + self.radius)

    def signed(self, x: Field, y: Field, z: Field) -> Field:
        """See ``Shape``."""
        axis = np.subtract(self.end, self.start).astype(np.float32)
        away = [at - np.float32(start) for at, start in zip((x, y, z), self.start, strict=True)]
        along = sum(part * length for part, length in zip(away, axis, strict=True)) / np.float32(axis @ axis)
        along = np.clip(along, 0, 1)
        gaps = [part - along * length for part, length in zip(away, axis, strict=True)]
        return np.sqrt(sum(gap * gap for gap in gaps)) - np.float32(self.radius)


class Grid:
    """Where the voxels of one reconstruction lie in the body.

    Args:
        affine: Columns, rows and slices to millimetres, ``[4, 4]``.
        shape: Slices, rows and columns.

    Attributes:
        x: Millimetres to the right, ``[D, H, W]``; ``y`` and ``z`` likewise.
    """

    def __init__(self, affine: NDArray[np.float64], shape: tuple[int, int, int]) -> None:
        self.affine, self.shape = affine, shape
        self._back = np.linalg.inv(affine)
        slices, rows, columns = (np.arange(length, dtype=np.float32) for length in shape)
        self.x, self.y, self.z = (
            np.float32(line[0]) * columns
            + np.float32(line[1]) * rows[:, None]
            + (np.float32(line[2]) * slices + np.float32(line[3]))[:, None, None]
            for line in affine[:3]
        )

    def around(self, extent: Extent) -> Part:
        """The voxels that may lie in a box, and some more."""
        corners = np.array([(*corner, 1.0) for corner in product(*zip(*extent, strict=True))])
        places = (self._back @ corners.T)[:3][::-1]
        parts = [
            slice(max(0, int(np.floor(one.min())) - 1), max(0, min(length, int(np.ceil(one.max())) + 2)))
            for one, length in zip(places, self.shape, strict=True)
        ]
        return parts[0], parts[1], parts[2]

    def at(self, part: Part) -> tuple[Field, Field, Field]:
        """Coordinates of some voxels."""
        return self.x[part], self.y[part], self.z[part]

    def box(self, part: Part, opacity: Field) -> Extent | None:
        """The box around what is drawn, voxels whole; None when nothing is."""
        drawn = opacity >= _SEEN
        if not drawn.any():
            return None
        reach = np.abs(self.affine[:3, :3]).sum(axis=1) / 2
        low, high = np.array([(at[drawn].min(), at[drawn].max()) for at in self.at(part)]).T
        return point(low - reach), point(high + reach)


@dataclass(frozen=True)
class Canvas:
    """A volume in the making.

    Attributes:
        grid: Where its voxels lie.
        hounsfield: What they attenuate, ``[D, H, W]``.
        labels: Which structure they belong to, ``[D, H, W]``; 0 for none.
    """

    grid: Grid
    hounsfield: Field
    labels: NDArray[np.uint8]

    @classmethod
    def of(cls, grid: Grid, background: float) -> Canvas:
        """Nothing drawn yet."""
        return cls(grid, np.full(grid.shape, background, np.float32), np.zeros(grid.shape, np.uint8))

    def paint(
        self, shape: Shape, hounsfield: float | Field, label: int | None = None, within: Shape | None = None
    ) -> tuple[Part, Field]:
        """Fills a shape.

        Args:
            shape: What to fill.
            hounsfield: With what; an array has to fit ``grid.around(shape.extent)``.
            label: Structure that the voxels become part of; None to leave them to what they were.
            within: Nothing is drawn outside of it.

        Returns:
            The voxels around the shape, and how far each is filled.
        """
        part = self.grid.around(shape.extent)
        at = self.grid.at(part)
        opacity = fill(shape.signed(*at))
        if within is not None:
            opacity = opacity * fill(within.signed(*at))
        self.blend(part, opacity, hounsfield, label)
        return part, opacity

    def blend(self, part: Part, opacity: Field, hounsfield: float | Field, label: int | None = None) -> None:
        """Mixes something into some voxels, as far as ``opacity`` says."""
        there = self.hounsfield[part]
        there += opacity * (np.asarray(hounsfield, np.float32) - there)
        if label is not None:
            self.labels[part][opacity > 0.5] = label


def fill(signed: Field) -> Field:
    """Opacity of a shape's inside, with an edge as wide as a voxel."""
    return np.clip(np.float32(0.5) - signed * np.float32(0.5 / EDGE), 0, 1)


@dataclass(frozen=True)
class Bubbles:
    """Balls in a lattice, one in each cell, of chance sizes; the same in every grid.

    Attributes:
        cell: Edge of a cell.
        radii: Radius in each cell in cells, 0 for none, ``[n, n, n]``; it repeats.
    """

    cell: float
    radii: Field

    @classmethod
    def draw(cls, rng: np.random.Generator, cell: float, share: float) -> Bubbles:
        """Balls in a share of the cells."""
        radii = rng.uniform(0.3, 0.55, (16, 16, 16)).astype(np.float32)
        radii[rng.random(radii.shape) >= share] = 0
        return cls(cell, radii)

    def opacity(self, x: Field, y: Field, z: Field) -> Field:
        """How far points lie inside a ball."""
        # Bent, because nothing in a body lies in straight rows.
        bend = np.float32(2 * np.pi / (3.1 * self.cell))
        squares = np.zeros_like(x)
        cells = []
        for at, beside in ((x, y), (y, z), (z, x)):
            scaled = (at + np.float32(0.35 * self.cell) * np.sin(beside * bend)) * np.float32(1 / self.cell)
            whole = np.floor(scaled)
            squares += np.square(scaled - whole - np.float32(0.5))
            cells.append(whole.astype(np.int16) & 15)
        radii = self.radii[cells[0], cells[1], cells[2]]
        return np.where(radii > 0, fill((np.sqrt(squares) - radii) * np.float32(self.cell)), np.float32(0))


def point(values: NDArray[np.floating]) -> Point:
    """Three numbers as a point."""
    x, y, z = (float(value) for value in values)
    return x, y, z


def _around(centre: Point, radii: Point) -> Extent:
    return point(np.subtract(centre, radii)), point(np.add(centre, radii))
