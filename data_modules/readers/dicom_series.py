"""A CT series in DICOM: files of one SeriesInstanceUID, in the order of their places, each with its own rescale.

Nothing is guessed: slices that are missing, that lie on one another, or that are stacked askew (gantry tilt) are
reasons to refuse the series, because a volume made of them would be bent without anyone noticing.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.readers.voxels import ALLOWED, allowed, check_size, hounsfield, placed
from domainvl.data.rejects import UnreadableImage
from domainvl.data.volumes.volume import LPS_TO_RAS, Matrix, Volume, check_affine

_SUFFIXES = (".dcm", ".dicom", ".ima")
_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
_ENHANCED = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
_TAGS = (
    "SOPClassUID",
    "SeriesInstanceUID",
    "ImageType",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "BurnedInAnnotation",
    "NumberOfFrames",
    *ALLOWED,
)
_TILT = 0.5
"""Degrees; half a degree moves the last slice of 300 mm by less than 3 mm."""
_UNEVEN = 0.05
"""Largest share by which a distance between slices may differ from the usual one; positions are rounded in headers."""
_DAMAGE = (AttributeError, EOFError, IndexError, KeyError, OverflowError, TypeError, ValueError, struct.error)
"""What pydicom raises on damaged headers. Its texts may quote the header, so only the type is passed on."""


@dataclass(frozen=True, eq=False)
class _Slice:
    path: Path
    tags: Any
    place: Matrix
    cosines: Matrix


def is_dicom(path: Path) -> bool:
    """Whether a file has the DICOM mark, or a name that says so."""
    if path.suffix.lower() in _SUFFIXES:
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def series_files(path: Path) -> list[Path]:
    """The files that a series may be made of: those of a folder, or those beside a file."""
    folder = path if path.is_dir() else path.parent
    files = folder.rglob("*") if path.is_dir() else folder.glob("*")
    return sorted(
        file for file in files if file.is_file() and not file.name.startswith(".") and file.name != "DICOMDIR"
    )


def read_series(path: Path, limit: int) -> Volume:
    """One volume.

    Args:
        path: A folder that holds one CT series, or one file of the series that is meant, beside its others.
        limit: Bytes that its voxels may take.

    Raises:
        UnreadableImage: With a reason that holds nothing of the headers but technical fields.
    """
    slices = _chosen(path)
    _check_alike(slices)
    ordered, affine = _stacked(slices)
    first = ordered[0].tags
    shape = (len(ordered), int(first.Rows), int(first.Columns))
    check_size(shape, 2, limit)
    check_affine(affine, shape)
    return Volume(_voxels(ordered, shape, limit), affine, facts=allowed({name: first.get(name) for name in ALLOWED}))


def _chosen(path: Path) -> list[_Slice]:
    """The slices of the one series that is meant; localizers and what is no CT are left out."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    groups: dict[str, list[_Slice]] = {}
    damaged = localizers = others = seen = 0
    own: str | None = None
    for file in series_files(path):
        if not is_dicom(file):
            continue
        seen += 1
        try:
            tags = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
            uid, kind = str(tags.SeriesInstanceUID), str(tags.SOPClassUID)
            if file == path:
                own = uid
            if kind in _ENHANCED or int(tags.get("NumberOfFrames") or 1) > 1:
                raise UnreadableImage("enhanced (multi-frame) CT is not read; convert it to NIfTI or to single slices")
            if kind != _CT_IMAGE:
                others += 1
            elif "LOCALIZER" in [str(part).upper() for part in tags.get("ImageType") or ()]:
                localizers += 1
            else:
                groups.setdefault(uid, []).append(_placed(file, tags))
        except UnreadableImage:
            raise
        except (InvalidDicomError, *_DAMAGE):
            damaged += 1
    if damaged:
        raise UnreadableImage(
            f"{damaged} of {seen} DICOM files are damaged or lack series, place, orientation or pixel spacing"
        )
    if own is not None and own in groups:
        return groups[own]
    if not groups or own is not None:
        raise UnreadableImage(
            f"there is no CT series: of {seen} DICOM files {localizers} are localizers and {others} are no CT images"
        )
    if len(groups) > 1:
        counts = sorted(map(len, groups.values()), reverse=True)
        raise UnreadableImage(
            f"the folder holds {len(groups)} series ({', '.join(map(str, counts))} slices); name a file of the one "
            "that is meant in place of the folder, or give each series a folder"
        )
    return next(iter(groups.values()))


def _placed(file: Path, tags: Any) -> _Slice:
    place = np.array([float(value) for value in tags.ImagePositionPatient])
    cosines = np.array([float(value) for value in tags.ImageOrientationPatient])
    spacing = [float(value) for value in tags.PixelSpacing]
    if place.shape != (3,) or cosines.shape != (6,) or len(spacing) != 2 or not int(tags.Rows) * int(tags.Columns):
        raise ValueError
    if not np.isfinite([*place, *cosines, *spacing]).all():
        raise ValueError
    return _Slice(file, tags, place, cosines)


def _check_alike(slices: Sequence[_Slice]) -> None:
    if any(str(one.tags.get("BurnedInAnnotation") or "").upper() == "YES" for one in slices):
        raise UnreadableImage("its header says that text is burned into the pixels, which may name the patient")
    if len(slices) == 1:
        raise UnreadableImage("the series has one slice; a volume has several")
    if any(int(one.tags.get("SamplesPerPixel") or 1) != 1 for one in slices):
        raise UnreadableImage("it is in colour")
    sizes = Counter((int(one.tags.Rows), int(one.tags.Columns)) for one in slices)
    if len(sizes) > 1:
        named = ", ".join(f"{count} of {rows} x {columns}" for (rows, columns), count in sizes.most_common())
        raise UnreadableImage(f"its slices differ in size: {named}")
    first = slices[0]
    for one in slices[1:]:
        if not np.allclose(one.cosines, first.cosines, atol=1e-3):
            raise UnreadableImage("its slices lie in different planes")
        if not np.allclose(_spacing(one), _spacing(first), rtol=1e-3):
            raise UnreadableImage("its slices differ in pixel spacing")


def _spacing(piece: _Slice) -> list[float]:
    return [float(value) for value in piece.tags.PixelSpacing]


def _stacked(slices: Sequence[_Slice]) -> tuple[list[_Slice], Matrix]:
    """Slices in the order of their normal, and the affine to millimetres right, front, up."""
    right, down = slices[0].cosines[:3], slices[0].cosines[3:]
    if min(np.linalg.norm(right), np.linalg.norm(down)) < 0.5 or abs(float(right @ down)) > 0.01:
        raise UnreadableImage("the affine is broken: rows and columns are not at a right angle")
    right, down = right / np.linalg.norm(right), down / np.linalg.norm(down)
    normal = np.cross(right, down)
    ordered = sorted(slices, key=lambda one: float(one.place @ normal))
    steps = np.diff([float(one.place @ normal) for one in ordered])
    _check_steps(steps)
    path = ordered[-1].place - ordered[0].place
    along = float(path @ normal)
    tilt = float(np.degrees(np.arctan2(np.linalg.norm(path - along * normal), along)))
    if tilt > _TILT:
        raise UnreadableImage(
            f"gantry tilt: its slices are stacked {tilt:.1f} degrees off their normal; straighten it first"
        )
    between_rows, between_columns = _spacing(ordered[0])
    axes = np.stack([right * between_columns, down * between_rows, path / (len(ordered) - 1)], axis=1)
    return ordered, LPS_TO_RAS @ placed(axes, ordered[0].place)


def _check_steps(steps: NDArray[np.float64]) -> None:
    same = int(np.count_nonzero(steps < 1e-3))
    if same:
        raise UnreadableImage(
            f"{same} of {len(steps) + 1} slices lie where another one lies: files that are there twice, or several "
            "phases (4D)"
        )
    usual = float(np.median(steps))
    wide = steps[np.abs(steps - usual) > max(_UNEVEN * usual, 0.011)]
    if not len(wide):
        return
    times = wide / usual
    if np.allclose(times, np.rint(times), atol=0.1) and (np.rint(times) > 1).all():
        lost = int(np.sum(np.rint(times) - 1))
        raise UnreadableImage(
            f"about {lost} slices are missing: {len(wide)} gaps where slices are {usual:.4g} mm apart"
        )
    raise UnreadableImage(
        f"its slices are unevenly spaced: {steps.min():.4g} to {steps.max():.4g} mm, usually {usual:.4g}"
    )


def _voxels(ordered: Sequence[_Slice], shape: tuple[int, int, int], limit: int) -> NDArray[Any]:
    import pydicom
    from pydicom.errors import BytesLengthException

    voxels: NDArray[Any] = np.empty(shape, np.int16)
    for number, one in enumerate(ordered):
        try:
            dataset = pydicom.dcmread(one.path)
            slope = dataset.get("RescaleSlope")
            intercept = dataset.get("RescaleIntercept")
            if slope is None or intercept is None:
                raise UnreadableImage("a slice has no RescaleSlope or RescaleIntercept, so its values have no unit")
            if str(dataset.get("PhotometricInterpretation")) != "MONOCHROME2":
                raise UnreadableImage("its pixels are not MONOCHROME2")
            stored = _pixels(dataset)
            if stored.shape != shape[1:]:
                raise UnreadableImage("the pixel data of a slice do not fit its header")
            piece = hounsfield(stored[None], float(slope), float(intercept))[0]
            padding = dataset.get("PixelPaddingValue")
            if padding is not None:
                piece = np.where(stored == padding, piece.dtype.type(-1024), piece)
        except UnreadableImage:
            raise
        except (BytesLengthException, *_DAMAGE) as error:
            raise UnreadableImage(f"a DICOM header is damaged ({type(error).__name__})") from error
        if piece.dtype.kind == "f" and voxels.dtype.kind != "f":
            check_size(shape, 4, limit)
            voxels = voxels.astype(np.float32)
        voxels[number] = piece
    return voxels


def _pixels(dataset: Any) -> NDArray[Any]:
    try:
        return dataset.pixel_array
    except (NotImplementedError, RuntimeError) as error:
        raise UnreadableImage(
            "no installed decoder reads its transfer syntax; `pip install pylibjpeg[all]` adds most of them"
        ) from error
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise UnreadableImage(f"the pixel data of a slice do not fit its header ({type(error).__name__})") from error
