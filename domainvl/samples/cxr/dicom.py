"""One radiograph as a DICOM file: 12 bits in 16, modality rescale, VOI window, MONOCHROME1 or MONOCHROME2."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from domainvl.samples.canvas import Field

if TYPE_CHECKING:
    from pydicom.uid import UID

_DEEPEST = 4095
_SLOPE, _INTERCEPT = 2.0, -1024.0
_WINDOW_CENTRE, _WINDOW_WIDTH = 3000.0, 5200.0


def save_dicom(path: Path, pixels: Field, *, patient: str, study: str, view: str, seed: int, inverted: bool) -> None:
    """Writes a file that, read in the standard's order, shows the same brightness as the JPEG would.

    Args:
        path: File to write.
        pixels: Brightness ``[H, W]``, 0 black and 1 white; the window clips what lies beyond.
        patient: Made-up patient id.
        study: Study name, unique within the patient.
        view: PA, AP or LATERAL.
        seed: Seed of the sample set; it goes into the unique identifiers.
        inverted: Whether to store MONOCHROME1, where larger values are darker.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

    instance = _uid(seed, patient, study, path.stem)

    header = FileMetaDataset()
    header.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    header.MediaStorageSOPInstanceUID = instance
    header.TransferSyntaxUID = ExplicitVRLittleEndian
    header.ImplementationClassUID = _uid("domainvl")
    header.ImplementationVersionName = "DOMAINVL"

    image = Dataset()
    image.file_meta = header
    image.SOPClassUID = ComputedRadiographyImageStorage
    image.SOPInstanceUID = instance
    image.StudyInstanceUID = _uid(seed, patient, study)
    image.SeriesInstanceUID = _uid(seed, patient, study, "series")
    image.StudyDate = image.StudyTime = ""
    image.AccessionNumber = image.StudyID = ""
    image.ReferringPhysicianName = ""
    image.SeriesNumber = image.InstanceNumber = 1
    image.Modality = "CR"
    image.Manufacturer = "domainvl procedural phantom"
    image.BodyPartExamined = "CHEST"
    image.ViewPosition = "LL" if view == "LATERAL" else view
    image.PatientID = patient
    image.PatientName = f"Phantom^{patient}"
    image.PatientBirthDate = image.PatientSex = ""
    image.PatientIdentityRemoved = "YES"
    image.DeidentificationMethod = "made-up patient"

    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    image.Rows, image.Columns = pixels.shape
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.RescaleSlope, image.RescaleIntercept, image.RescaleType = _SLOPE, _INTERCEPT, "US"
    image.WindowCenter, image.WindowWidth = _WINDOW_CENTRE, _WINDOW_WIDTH
    image.PixelData = _stored(1 - pixels if inverted else pixels).astype("<u2").tobytes()
    image.save_as(path, enforce_file_format=True)


def _stored(windowed: Field) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Inverts the VOI window (linear, as the standard defines it) and then the modality rescale."""
    modality = (windowed - 0.5) * (_WINDOW_WIDTH - 1) + _WINDOW_CENTRE - 0.5
    return np.clip(np.rint((modality - _INTERCEPT) / _SLOPE), 0, _DEEPEST).astype(np.int64)


def _uid(*parts: object) -> UID:
    """A valid identifier under 2.25, the root that anyone may use, fixed by ``parts``."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    from pydicom.uid import UID

    return UID(f"2.25.{int.from_bytes(digest[:15], 'big')}")
