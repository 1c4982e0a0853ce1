"""Label maps of organs as segmentation programs write them: one file with a number per structure, or a mask each."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from data_modules.readers.total_segmentator import TOTAL
from data_modules.readers.volume import LIMIT, SUFFIXES, is_volume, read_volume
from domainvl.data.manifest import Record
from domainvl.data.names import hint
from domainvl.data.rejects import UnreadableImage
from domainvl.data.volumes.hounsfield import regions
from domainvl.data.volumes.organ_maps import OrganSource, on_grid
from domainvl.data.volumes.store import Entry, key_of
from domainvl.data.volumes.volume import Volume


@dataclass(frozen=True)
class OrganMaps(OrganSource):
    """Label maps of TotalSegmentator's kind.

    A label map is one file whose numbers name structures, or a folder with a mask for each structure
    (`heart.nii.gz`). A structure is a name of TotalSegmentator's task `total`, `*` standing for anything
    (`lung_*`), or a number for programs that count otherwise. Where organs overlap the first one has the voxel.

    Attributes:
        structures: What makes up each organ.
        folder: Label maps that lie as the volumes do below their root, and are named like them. None: where the data
            set says (`organs_column` of tables).
        whole: Leave out, in every window, organs that its border cuts, as fVLM does.
    """

    structures: dict[str, list[int | str]]
    folder: str | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        empty = [name for name, parts in self.structures.items() if not parts or not name.isidentifier()]
        if empty or not 0 < len(self.structures) < 256:
            raise ValueError(
                f"OrganMaps: structures must be 1 to 255 organs, each an identifier with at least one structure; got "
                f"{empty or len(self.structures)}"
            )
        for name in self.names:
            self.numbers(name)

    @property
    def names(self) -> tuple[str, ...]:
        """See `OrganSource`."""
        return tuple(self.structures)

    def numbers(self, organ: str) -> list[int]:
        """Numbers of an organ in a label map of one file."""
        found = []
        for part in self.structures[organ]:
            known = [part] if isinstance(part, int) else [TOTAL[name] for name in TOTAL if fnmatchcase(name, part)]
            if not known:
                raise ValueError(
                    f"OrganMaps: {part!r} of {organ!r} is no structure of TotalSegmentator's task 'total'"
                    f"{hint(str(part), TOTAL)} Other programs' structures are given by number"
                )
            found += known
        return found

    def has(self, record: Record, root: Path) -> bool:
        """See `OrganSource`."""
        if self.folder is None:
            return bool(record.organs)
        return self._place(record, root).exists()

    def key(self, record: Record, root: Path) -> str:
        """See `OrganSource`."""
        place = self._place(record, root)
        files = sorted(place.iterdir()) if place.is_dir() else [place]
        return key_of(files, repr(self.structures))

    def read(self, record: Record, root: Path, volume: Entry) -> Volume:
        """See `OrganSource`."""
        place = self._place(record, root)
        labels = self._merged(place) if place.is_dir() else self._renamed(read_volume(place, LIMIT))
        return on_grid(labels, volume.shape, volume.matrix)

    def _place(self, record: Record, root: Path) -> Path:
        if self.folder is None:
            return root / record.organs
        place = Path(self.folder).expanduser() / record.path
        if place.exists():
            return place
        stem = next((place.name[: -len(end)] for end in SUFFIXES if place.name.lower().endswith(end)), place.name)
        others = [place.with_name(stem + end) for end in ("", *SUFFIXES)]
        return next((other for other in others if other.exists()), place)

    def _renamed(self, labels: Volume) -> Volume:
        """One file's numbers to organ numbers."""
        stored = labels.voxels
        if stored.dtype != np.int16:
            raise UnreadableImage("its values are no whole numbers, so it is no label map")
        found = np.zeros(stored.shape, np.int16)
        for number in range(len(self.names), 0, -1):
            found[np.isin(stored, self.numbers(self.names[number - 1]))] = number
        return Volume(found, labels.world, labels.turn)

    def _merged(self, folder: Path) -> Volume:
        """A folder's masks as one map."""
        masks = {_stem(file): file for file in sorted(folder.iterdir()) if is_volume(file)}
        found: Volume | None = None
        for number in range(len(self.names), 0, -1):
            for part in self.structures[self.names[number - 1]]:
                for name in masks:
                    if not fnmatchcase(name, str(part)):
                        continue
                    mask = read_volume(masks[name], LIMIT)
                    if found is None:
                        found = Volume(np.zeros(mask.voxels.shape, np.int16), mask.world, mask.turn)
                    if mask.voxels.shape != found.voxels.shape or not np.allclose(mask.affine, found.affine, atol=1e-3):
                        raise UnreadableImage(f"the mask {name} lies on another grid than the other masks")
                    found.voxels[mask.voxels > 0] = number
        if found is None:
            raise UnreadableImage(f"none of its {len(masks)} masks is of {', '.join(self.names)}")
        return found


@dataclass(frozen=True)
class HounsfieldOrgans(OrganSource):
    """Lungs and body found in the Hounsfield units themselves, for scans that nobody has segmented.

    `lungs` are the air inside the body that no way joins to the air around; `body` is the rest of the largest thing
    that is not air.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """See `OrganSource`."""
        return ("lungs", "body")

    def has(self, record: Record, root: Path) -> bool:
        """See `OrganSource`."""
        return True

    def key(self, record: Record, root: Path) -> str:
        """See `OrganSource`: the volume is all that it depends on."""
        return "hounsfield 1"

    def read(self, record: Record, root: Path, volume: Entry) -> Volume:
        """See `OrganSource`."""
        lungs, body = regions(Volume(volume.voxels(), volume.matrix))
        return Volume(np.where(lungs, 1, np.where(body, 2, 0)).astype(np.int16), volume.matrix)


def _stem(file: Path) -> str:
    return next(file.name[: -len(end)] for end in SUFFIXES if file.name.lower().endswith(end))
