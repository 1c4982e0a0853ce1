"""A CT volume from whatever it lies in, or a stated reason why not. Never a replacement volume."""

from __future__ import annotations

from pathlib import Path

from data_modules.readers.dicom_series import is_dicom, read_series
from data_modules.readers.meta_image import read_meta_image
from data_modules.readers.nifti import read_nifti
from data_modules.readers.npz import read_npz
from data_modules.readers.voxels import Header
from domainvl.data.rejects import UnreadableImage
from domainvl.data.volumes.volume import Volume

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".npz")
"""Files that count as volumes when a folder is read; folders with DICOM files count as well."""

LIMIT = 4 << 30
"""Bytes that one volume may take when nothing else is said."""


def is_volume(path: Path) -> bool:
    """Whether a file's name says that it is a volume."""
    return path.name.lower().endswith(SUFFIXES)


def read_volume(path: Path, limit: int = LIMIT, header: Header | None = None) -> Volume:
    """Read NIfTI, a DICOM series, NRRD, MetaImage or npz.

    Args:
        path: A file; for DICOM the folder of a series, or one of its files.
        limit: Bytes that its voxels may take in memory.
        header: What the file's header should say, where a data set knows better (NIfTI and npz).

    Raises:
        UnreadableImage: It cannot be used, with the reason.
        FileNotFoundError: It is not there.
    """
    if path.is_dir():
        return read_series(path, limit)
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return read_nifti(path, limit, header)
    if name.endswith(".npz"):
        return read_npz(path, limit, None if header is None else header.affine)
    if header is not None:
        raise UnreadableImage("its header is replaced by the data set's, which is possible for NIfTI and npz alone")
    if name.endswith((".nrrd", ".mha", ".mhd")):
        return read_meta_image(path, limit)
    if is_dicom(path):
        return read_series(path, limit)
    raise UnreadableImage(
        f"{path.suffix or 'a file without an ending'} is no volume; {', '.join(SUFFIXES)} and DICOM are"
    )
