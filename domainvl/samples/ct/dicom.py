"""A CT series as DICOM files, one for each slice, with a localizer beside it, as scanners send them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.uid import UID

_INTERCEPT = -1024
_TO_LPS = np.diag([-1.0, -1.0, 1.0])
_KERNELS = {"soft": "PHANTOM-20", "sharp": "PHANTOM-70"}


def save_series(
    folder: Path,
    voxels: NDArray[np.int16],
    affine: NDArray[np.float64],
    *,
    patient: str,
    study: str,
    name: str,
    seed: int,
    contrast: bool,
) -> None:
    """Writes a series whose file names say nothing of the order of slices.

    Args:
        folder: Where to write.
        voxels: Hounsfield units from -1024 on, ``[D, H, W]``.
        affine: Columns, rows and slices to millimetres right, front, up, ``[4, 4]``.
        patient: Made-up patient id.
        study: Study name, unique within the patient.
        name: Of the reconstruction, unique within the study.
        seed: Seed of the sample set; it goes into the unique identifiers.
        contrast: Whether contrast medium was given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = (seed, patient, study)
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = (_TO_LPS @ affine[:3, :2] / steps[:2]).T.ravel()
    series = _uid(*parts, name, "series")
    order = np.random.default_rng(len(voxels)).permutation(len(voxels))
    for number, place in enumerate(order.tolist()):
        image = _image(parts, _uid(*parts, name, place), series, ["ORIGINAL", "PRIMARY", "AXIAL"])
        image.SeriesNumber, image.InstanceNumber = 2, place + 1
        image.ConvolutionKernel = _KERNELS[name]
        image.ContrastBolusAgent = "made-up agent" if contrast else ""
        image.SliceThickness = _number(steps[2])
        image.PixelSpacing = [_number(steps[1]), _number(steps[0])]
        corner = _TO_LPS @ (affine[:3, 3] + affine[:3, 2] * place)
        image.ImagePositionPatient = [_number(value) for value in corner]
        image.ImageOrientationPatient = [_number(value) for value in cosines]
        _put(image, voxels[place])
        image.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)
    _localizer(folder / "scout.dcm", voxels, affine, parts)


def _localizer(path: Path, voxels: NDArray[np.int16], affine: NDArray[np.float64], parts: tuple[int, str, str]) -> None:
    """The view from the front that a scan is planned on: a series of its own, and no slice of the volume."""
    image = _image(parts, _uid(*parts, "scout"), _uid(*parts, "scout", "series"), ["ORIGINAL", "PRIMARY", "LOCALIZER"])
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    image.SeriesNumber = image.InstanceNumber = 1
    image.SliceThickness = _number(steps[1])
    image.PixelSpacing = [_number(steps[2]), _number(steps[0])]
    image.ImagePositionPatient = [_number(value) for value in _TO_LPS @ (affine @ [0, 0, len(voxels) - 1, 1])[:3]]
    image.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    _put(image, voxels[::-1].mean(axis=1).astype(np.int16))
    image.save_as(path, enforce_file_format=True)


def _image(parts: tuple[int, str, str], instance: UID, series: UID, kind: list[str]) -> Dataset:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    header = FileMetaDataset()
    header.MediaStorageSOPClassUID = CTImageStorage
    header.MediaStorageSOPInstanceUID = instance
    header.TransferSyntaxUID = ExplicitVRLittleEndian
    header.ImplementationClassUID = _uid("domainvl")
    header.ImplementationVersionName = "DOMAINVL"

    image = Dataset()
    image.file_meta = header
    image.ImageType = kind
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, instance
    image.StudyInstanceUID, image.SeriesInstanceUID = _uid(*parts), series
    image.FrameOfReferenceUID = _uid(*parts, "frame")
    image.StudyDate = image.StudyTime = ""
    image.AccessionNumber = image.StudyID = image.ReferringPhysicianName = ""
    image.Modality = "CT"
    image.Manufacturer = "domainvl procedural phantom"
    image.BodyPartExamined = "CHEST"
    image.PatientPosition = "HFS"
    image.KVP = "120"
    image.PatientID = parts[1]
    image.PatientName = f"Phantom^{parts[1]}"
    image.PatientBirthDate = image.PatientSex = image.PositionReferenceIndicator = ""
    image.PatientIdentityRemoved = "YES"
    image.DeidentificationMethod = "made-up patient"
    return image


def _put(image: Dataset, hounsfield: NDArray[np.int16]) -> None:
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows, image.Columns = hounsfield.shape
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.RescaleSlope, image.RescaleIntercept, image.RescaleType = 1, _INTERCEPT, "HU"
    image.WindowCenter, image.WindowWidth = 40, 400
    image.PixelData = (hounsfield.astype(np.int32) - _INTERCEPT).astype("<u2").tobytes()


def _number(value: float) -> str:
    """A decimal string of at most 16 characters, as the standard allows."""
    return f"{value:.9g}"


def _uid(*parts: object) -> UID:
    """A valid identifier under 2.25, the root that anyone may use, fixed by ``parts``."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    from pydicom.uid import UID

    return UID(f"2.25.{int.from_bytes(digest[:15], 'big')}")
