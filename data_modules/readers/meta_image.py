"""NRRD and MetaImage through SimpleITK, with the checks that it leaves out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.readers.voxels import check_size, hounsfield, placed
from domainvl.data.rejects import UnreadableImage
from domainvl.data.volumes.volume import LPS_TO_RAS, Volume, check_affine

_HEADER = 1 << 16
_NRRD = re.compile(rb"^(space|space directions|data file|datafile):", re.MULTILINE | re.IGNORECASE)
_META = re.compile(rb"^ElementDataFile\s*=\s*(.*?)\s*$", re.MULTILINE)
_DIRECTION = re.compile(rb"^(TransformMatrix|Rotation|Orientation)\s*=", re.MULTILINE)


def read_meta_image(path: Path, limit: int) -> Volume:
    """One volume from .nrrd, .mha or .mhd; values are taken as Hounsfield units.

    Args:
        path: The file.
        limit: Bytes that its voxels may take.

    Raises:
        UnreadableImage: With a reason.
    """
    import SimpleITK as sitk

    _check_text(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise UnreadableImage(_reason(error)) from error
    size = reader.GetSize()
    if len(size) != 3 and max(size[3:], default=1) > 1:
        raise UnreadableImage(f"it has {len(size)} dimensions ({' x '.join(map(str, size))}); give one volume per file")
    if len(size) != 3 or reader.GetNumberOfComponents() != 1:
        raise UnreadableImage(f"it has {len(size)} dimensions and {reader.GetNumberOfComponents()} values per voxel")
    shape = (int(size[2]), int(size[1]), int(size[0]))
    try:
        itemsize = sitk.GetArrayViewFromImage(sitk.Image([1, 1, 1], reader.GetPixelID())).itemsize
        check_size(shape, itemsize, limit)
        image = reader.Execute()
    except RuntimeError as error:
        raise UnreadableImage(_reason(error)) from error
    axes = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine = LPS_TO_RAS @ placed(axes, np.array(image.GetOrigin()))
    check_affine(affine, shape)
    voxels: NDArray[Any] = sitk.GetArrayFromImage(image)
    return Volume(hounsfield(voxels, 1.0, 0.0), affine)


def _check_text(path: Path) -> None:
    """The geometry has to be in the file; both libraries would put in an identity where it is not."""
    with path.open("rb") as file:
        raw = file.read(_HEADER)
    if not raw:
        raise UnreadableImage("the file is empty (0 bytes)")
    if raw.startswith(b"NRRD"):
        text = raw.split(b"\n\n", 1)[0].replace(b"\r", b"")
        named = {found.lower() for found in _NRRD.findall(text)}
        if b"space directions" not in named or b"space" not in named:
            raise UnreadableImage(
                "the NRRD header has no space or no space directions, so left is not known from right"
            )
        if b"data file" in named or b"datafile" in named:
            raise UnreadableImage("its voxels lie in a file of their own; convert it to one .nrrd")
        return
    found = _META.search(raw)
    if found is None:
        raise UnreadableImage("it is neither NRRD nor MetaImage, or its header is cut short")
    if b"/" in found[1] or b"\\" in found[1] or b"LIST" in found[1] or b"%" in found[1]:
        raise UnreadableImage("its header points to voxels elsewhere; they have to lie in the same folder, in one file")
    if _DIRECTION.search(raw[: found.end()]) is None:
        raise UnreadableImage("the MetaImage header has no TransformMatrix, so left is not known from right")


def _reason(error: RuntimeError) -> str:
    """ITK's last line, without paths."""
    text = str(error).strip().splitlines()[-1]
    text = re.sub(r"\S*/\S*", "...", text)
    return f"SimpleITK cannot read it: {text[:200]}"
