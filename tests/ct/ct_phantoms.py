"""Small bodies, written by libraries that the readers do not use for the same format."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from domainvl.data.volumes.volume import LPS_TO_RAS, Volume

TURN = 0.2
"""Radians by which the oblique volume is turned about two axes."""


def body(shape=(48, 56, 64), spacing=(5.0, 4.0, 4.0), seed=0, lungs=True, noise=20.0):
    """Hounsfield units `[D, H, W]`, RAS: a trunk with two lungs, a heart on the left, a bright spot on the right."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(
        *(np.arange(n) * s - (n - 1) * s / 2 for n, s in zip(shape, spacing, strict=True)), indexing="ij"
    )
    voxels = np.full(shape, -1000.0)
    inside = (x / 115) ** 2 + (y / 85) ** 2 < 1
    voxels[inside] = 40 + (noise * rng.standard_normal(shape))[inside] + 0.2 * z[inside]
    if lungs:
        for side in (-1, 1):
            lung = ((x - side * 50) / 35) ** 2 + (y / 55) ** 2 + ((z - 10) / 80) ** 2 < 1
            voxels[lung] = -850 + (noise * rng.standard_normal(shape))[lung]
    heart = ((x + 20) / 30) ** 2 + ((y - 25) / 30) ** 2 + (z / 35) ** 2 < 1
    voxels[heart] = 60
    spot = ((x - 90) / 12) ** 2 + (y / 12) ** 2 + ((z - 60) / 15) ** 2 < 1
    voxels[spot] = 700
    return np.rint(voxels).astype(np.int16)


def affine(spacing=(5.0, 4.0, 4.0), oblique=False, origin=(-120.5, -101.25, 33.0)):
    """To millimetres right, front, up."""
    d, h, w = spacing
    matrix = np.diag([w, h, d, 1.0])
    if oblique:
        c, s = np.cos(TURN), np.sin(TURN)
        about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
        about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        matrix[:3, :3] = about_z @ about_x @ matrix[:3, :3]
    matrix[:3, 3] = origin
    return matrix


def image(volume: Volume) -> sitk.Image:
    """The same volume for SimpleITK."""
    made = sitk.GetImageFromArray(np.ascontiguousarray(volume.voxels))
    lps = LPS_TO_RAS @ volume.affine
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    made.SetSpacing(lengths.tolist())
    made.SetDirection((lps[:3, :3] / lengths).ravel().tolist())
    made.SetOrigin(lps[:3, 3].tolist())
    return made


def save(path: Path, volume: Volume) -> Path:
    """NIfTI, NRRD or MetaImage by SimpleITK, or npz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez_compressed(path, ct=volume.voxels, affine=volume.affine)
    else:
        sitk.WriteImage(image(volume), str(path), True)
    return path


def chest(path: Path, seed=0, code="RAS", oblique=False, shape=(48, 56, 64), spacing=(5.0, 4.0, 4.0)) -> Path:
    """A chest in a file."""
    return save(path, Volume(body(shape, spacing, seed), affine(spacing, oblique)).oriented(code))


def series(folder: Path, volume: Volume, *, name="s", order=None, slopes=None, **tags) -> Path:
    """A CT series as DICOM files, in an order of file names that says nothing about the order of slices.

    Args:
        folder: Where to write; made when it is not there.
        volume: What to write.
        name: Of the series; files begin with it.
        order: Slices to write, in the order of file names; shuffled when None.
        slopes: Slope of each slice; 1 when None.
        tags: Put into every file.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    lps = LPS_TO_RAS @ volume.affine
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    count = len(volume.voxels)
    order = np.random.default_rng(3).permutation(count) if order is None else order
    uid = generate_uid(entropy_srcs=[name])
    for number, place in enumerate(order):
        slope = 1.0 if slopes is None else slopes[place]
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[name, str(number)])
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one = Dataset()
        one.file_meta = meta
        one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        one.SeriesInstanceUID, one.Modality = uid, "CT"
        one.PatientName, one.PatientID, one.StudyDate = "Secret^Name", "SECRET-7", "20200102"
        one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        one.ImagePositionPatient = [f"{v:.6f}" for v in (lps @ [0, 0, place, 1])[:3]]
        one.ImageOrientationPatient = [f"{v:.8f}" for v in (lps[:3, :2] / lengths[:2]).T.ravel()]
        one.PixelSpacing = [f"{lengths[1]:.6f}", f"{lengths[0]:.6f}"]
        one.SliceThickness = f"{lengths[2]:.4f}"
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.Rows, one.Columns = volume.voxels.shape[1:]
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
        one.RescaleSlope, one.RescaleIntercept = slope, -1024
        one.PixelData = np.rint((volume.voxels[place].astype(float) + 1024) / slope).astype("<u2").tobytes()
        for tag, value in tags.items():
            setattr(one, tag, value)
        one.save_as(folder / f"{name}-{number:03d}.dcm", enforce_file_format=True)
    return folder
