"""Organs of volumes: where their label maps come from, and how one is brought onto the voxels of a prepared volume.

A prepared label map holds 1 for the first organ asked for, 2 for the second and so on, 0 elsewhere, on exactly the grid
of its volume: every voxel takes the label that is nearest to its centre in millimetres, whatever orientation, spacing
and extent the label map has. Where the label map does not reach, nothing is known, which counts as 0.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from domainvl.data.manifest import Record
from domainvl.data.rejects import UnreadableImage
from domainvl.data.volumes.store import Entry
from domainvl.data.volumes.volume import Matrix, Volume, orientation_of

_OFF = 0.5
"""Label voxels by which the axes of both may drift apart over the whole volume."""


class OrganSource(ABC):
    """Where label maps come from. It is sent to worker processes.

    Attributes:
        whole: Whether an organ that the border of the model's window cuts counts as not there.
    """

    whole: bool = False

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The organs; number 1 is the first."""

    @abstractmethod
    def has(self, record: Record, root: Path) -> bool:
        """Whether there is a label map of a record at all; one that is named and missing counts."""

    @abstractmethod
    def key(self, record: Record, root: Path) -> str:
        """What tells a record's label map, as it is now, from all others; FileNotFoundError when it is not there."""

    @abstractmethod
    def read(self, record: Record, root: Path, volume: Entry) -> Volume:
        """Organ numbers on the grid of the prepared volume; UnreadableImage with the reason when there are none."""


@dataclass(frozen=True)
class OrganPlan:
    """What is stored of label maps.

    Attributes:
        version: Raised when this code changes what it computes.
    """

    size: ClassVar[None] = None

    version: int = 1

    @property
    def digest(self) -> str:
        """Over the version; which volume and which organs is part of a label map's key."""
        return hashlib.sha256(json.dumps(["organs", self.version]).encode()).hexdigest()[:12]

    def prepare(self, volume: Volume) -> tuple[NDArray[np.int16], Matrix]:
        """Numbers that lie on the grid of their volume already."""
        return volume.voxels.astype(np.int16), volume.affine


def on_grid(labels: Volume, shape: tuple[int, int, int], affine: Matrix) -> Volume:
    """Labels at the nearest voxel of another grid, 0 where there are none.

    Args:
        labels: A label map.
        shape: Slices, rows and columns of the grid.
        affine: Its indices to millimetres, `[4, 4]`.

    Raises:
        UnreadableImage: The label map is turned against the grid, or lies beside it.
    """
    labels = labels.oriented(orientation_of(affine))
    across = np.linalg.inv(labels.affine) @ affine
    steps = np.diag(across)[:3]
    drift = np.abs(across[:3, :3] - np.diag(steps)) * (np.array(shape[::-1]) - 1)
    if drift.max() > _OFF:
        raise UnreadableImage(
            f"the label map's axes are turned against those of its volume: by {drift.max():.1f} voxels from one end "
            "to the other; resample it onto the grid of the file that it was made from"
        )
    places, inside = [], []
    # Columns, rows, slices in the affine; the other way round in arrays.
    for axis, (count, there) in enumerate(zip(shape, labels.voxels.shape, strict=True)):
        at = np.rint(np.arange(count) * steps[2 - axis] + across[2 - axis, 3]).astype(np.int64)
        inside.append((at >= 0) & (at < there))
        places.append(at.clip(0, there - 1))
    if not all(axis.any() for axis in inside):
        raise UnreadableImage("the label map lies beside its volume; they are not of one scan, or a header is wrong")
    found = labels.voxels[np.ix_(*places)] * inside[0][:, None, None] * inside[1][:, None] * inside[2]
    return Volume(found.astype(np.int16), affine)
