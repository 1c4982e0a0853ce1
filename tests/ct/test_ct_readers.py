"""Every format gives the same volume; what headers say about people goes nowhere."""

import gzip
import struct

import numpy as np
import pytest
import SimpleITK as sitk
from ct_phantoms import affine, body, save, series

from data_modules.readers.nifti import read_nifti
from data_modules.readers.volume import LIMIT, read_volume
from data_modules.readers.voxels import Header, hounsfield
from domainvl.data import UnreadableImage
from domainvl.data.volumes.volume import Volume


@pytest.fixture(scope="module")
def chests():
    return {oblique: Volume(body(), affine(oblique=oblique)) for oblique in (False, True)}


@pytest.mark.parametrize("oblique", [False, True], ids=["straight", "oblique"])
@pytest.mark.parametrize("code", ["RAS", "LPS", "PIL", "SLA"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.npz", "series"])
def test_all_formats_agree(tmp_path, chests, name, code, oblique):
    there = chests[oblique].oriented(code)
    if name == "series":
        if np.linalg.det(there.affine[:3, :3]) < 0:
            # DICOM has no left-handed stacks: slices follow the cross product of rows and columns.
            there = chests[oblique].oriented(code[:2] + {"L": "R", "A": "P", "S": "I"}.get(code[2], "L"))
        path = series(tmp_path / name, there)
    else:
        path = save(tmp_path / name, there)
    found = read_volume(path)
    assert found.voxels.dtype == np.int16
    back = found.oriented("RAS")
    assert np.array_equal(back.voxels, chests[oblique].voxels)
    assert np.allclose(back.affine, chests[oblique].affine, atol=1e-4)


def test_slices_have_their_own_slope(tmp_path, chests):
    slopes = [2.0 if place % 3 else 1.0 for place in range(48)]
    found = read_volume(series(tmp_path / "s", chests[False], slopes=slopes))
    difference = np.abs(found.voxels.astype(int) - chests[False].voxels)
    assert difference[::3].max() == 0
    assert difference.max() == 1, "a slope of two stores even steps"


def test_a_slope_that_is_no_whole_number_gives_floats(tmp_path, chests):
    found = read_volume(series(tmp_path / "s", chests[False], slopes=[1.0] * 47 + [0.5]))
    assert found.voxels.dtype == np.float32
    assert np.array_equal(found.voxels, chests[False].voxels)


def test_localizers_and_other_files_are_left_out(tmp_path, chests):
    folder = series(tmp_path / "s", chests[False])
    flat = Volume(chests[False].voxels[:1], chests[False].affine)
    series(folder, flat, name="scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    (folder / "notes.txt").write_text("hello")
    (folder / "DICOMDIR").write_bytes(b"x")
    assert read_volume(folder).voxels.shape == (48, 56, 64)


def test_a_file_names_its_series(tmp_path, chests):
    folder = series(tmp_path / "s", chests[False], name="one")
    series(folder, Volume(chests[False].voxels[:20], chests[False].affine), name="two")
    assert read_volume(folder / "two-003.dcm").voxels.shape == (20, 56, 64)
    assert read_volume(folder / "one-003.dcm").voxels.shape == (48, 56, 64)


def test_padding_becomes_air(tmp_path, chests):
    voxels = chests[False].voxels.copy()
    voxels[:, :3] = 2000
    found = read_volume(series(tmp_path / "s", Volume(voxels, chests[False].affine), PixelPaddingValue=3024))
    assert (found.voxels[:, :3] == -1024).all()
    assert np.array_equal(found.voxels[:, 3:], voxels[:, 3:])


def test_only_allowed_tags_leave_the_file(tmp_path, chests):
    folder = series(
        tmp_path / "s", chests[False], Manufacturer="ACME", BodyPartExamined="CHEST", StudyDescription="SECRET study"
    )
    found = read_volume(folder)
    assert dict(found.facts) == {
        "Modality": "CT",
        "Manufacturer": "ACME",
        "SliceThickness": "5.0000",
        "BodyPartExamined": "CHEST",
    }
    assert "SECRET" not in repr(found).upper()


def nifti1(voxels, order="<", *, sform=True, slope=1.0, intercept=0.0, code=4, dim=None, units=2):
    """A NIfTI-1 file byte by byte."""
    raw = bytearray(352)
    d, h, w = voxels.shape
    struct.pack_into(order + "i", raw, 0, 348)
    struct.pack_into(order + "8h", raw, 40, *(dim or (3, w, h, d, 1, 1, 1, 1)))
    struct.pack_into(order + "2h", raw, 70, code, 16)
    struct.pack_into(order + "8f", raw, 76, 1, 4, 4, 5, 0, 0, 0, 0)
    struct.pack_into(order + "3f", raw, 108, 352, slope, intercept)
    raw[123] = units
    if sform:
        struct.pack_into(order + "2h", raw, 252, 0, 1)
        struct.pack_into(order + "12f", raw, 280, 4, 0, 0, 1, 0, 4, 0, 2, 0, 0, 5, 3)
    raw[344:348] = b"n+1\0"
    return bytes(raw) + voxels.astype(voxels.dtype.newbyteorder(order)).tobytes()


def nifti2(voxels, order="<"):
    raw = bytearray(544)
    d, h, w = voxels.shape
    struct.pack_into(order + "i", raw, 0, 540)
    raw[4:12] = b"n+2\0\r\n\032\n"
    struct.pack_into(order + "2h", raw, 12, 4, 16)
    struct.pack_into(order + "8q", raw, 16, 3, w, h, d, 1, 1, 1, 1)
    struct.pack_into(order + "8d", raw, 104, 1, 4, 4, 5, 0, 0, 0, 0)
    struct.pack_into(order + "q2d", raw, 168, 544, 1, 0)
    struct.pack_into(order + "2i", raw, 344, 0, 1)
    struct.pack_into(order + "12d", raw, 400, 4, 0, 0, 1, 0, 4, 0, 2, 0, 0, 5, 3)
    struct.pack_into(order + "i", raw, 500, 2)
    return bytes(raw) + voxels.astype(voxels.dtype.newbyteorder(order)).tobytes()


@pytest.mark.parametrize("write", [nifti1, nifti2])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
def test_nifti_versions_and_byte_orders(tmp_path, write, order, packed):
    voxels = body((8, 9, 10))
    path = tmp_path / ("a.nii.gz" if packed else "a.nii")
    raw = write(voxels, order)
    path.write_bytes(gzip.compress(raw) if packed else raw)
    found = read_volume(path)
    assert np.array_equal(found.voxels, voxels)
    assert found.voxels.dtype.isnative
    assert found.affine.tolist() == [[4, 0, 0, 1], [0, 4, 0, 2], [0, 0, 5, 3], [0, 0, 0, 1]]


def test_gzip_streams_one_after_the_other_are_one_file(tmp_path):
    raw = nifti1(body((8, 9, 10)))
    path = tmp_path / "a.nii.gz"
    path.write_bytes(
        b"".join(gzip.compress(raw[start : start + 700]) for start in range(0, len(raw), 700)) + b"\0" * 30
    )
    assert np.array_equal(read_volume(path).voxels, body((8, 9, 10)))


def test_nifti_scale_is_applied_once(tmp_path):
    voxels = body((8, 9, 10)).astype(np.int16)
    path = tmp_path / "a.nii"
    path.write_bytes(nifti1(voxels + np.int16(1024), slope=1.0, intercept=-1024.0))
    assert np.array_equal(read_volume(path).voxels, voxels)
    assert read_volume(path).voxels.dtype == np.int16
    # A table's scale is for files that have none of their own.
    header = Header((4.0, 4.0, 5.0), slope=1.0, intercept=-1024.0)
    assert np.array_equal(read_nifti(path, LIMIT, header).voxels, voxels)
    path.write_bytes(nifti1(voxels + np.int16(1024)))
    assert np.array_equal(read_nifti(path, LIMIT, header).voxels, voxels)
    assert read_nifti(path, LIMIT, header).orientation == "LPS"


def test_the_qform_means_what_itk_thinks(tmp_path, chests):
    path = save(tmp_path / "a.nii", chests[True].oriented("PIR"))
    raw = bytearray(path.read_bytes())
    assert struct.unpack_from("<2h", raw, 252) == (1, 1)
    both = read_volume(path)
    struct.pack_into("<h", raw, 254, 0)
    path.write_bytes(raw)
    assert np.allclose(read_volume(path).affine, both.affine, atol=1e-4)
    theirs = sitk.ReadImage(str(path))
    there = theirs.TransformContinuousIndexToPhysicalPoint((3.0, 5.0, 7.0))
    assert np.allclose((both.affine @ [3, 5, 7, 1])[:3] * [-1, -1, 1], there, atol=1e-3)


def test_metres_are_metres(tmp_path):
    path = tmp_path / "a.nii"
    raw = bytearray(nifti1(body((8, 9, 10)), units=1))
    struct.pack_into("<12f", raw, 280, 0.004, 0, 0, 0.1, 0, 0.004, 0, 0, 0, 0, 0.005, 0)
    path.write_bytes(raw)
    assert np.allclose(read_volume(path).spacing, (5, 4, 4))
    assert np.isclose(read_volume(path).affine[0, 3], 100)


def test_a_header_from_elsewhere_puts_axes_into_columns():
    cosines = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)
    matrix = Header((1.0, 2.0, 3.0), (10.0, 20.0, 30.0), cosines).affine
    assert np.allclose(matrix[:3, 0], [-0.8, -0.6, 0])
    assert np.allclose(matrix[:3, 1], [0, 0, -2])
    assert np.allclose(matrix[:3, 2], np.array([-1, -1, 1]) * np.cross(cosines[:3], cosines[3:]) * 3)
    assert np.allclose(matrix[:3, 3], [-10, -20, 30])


@pytest.mark.parametrize(
    ("stored", "slope", "intercept", "kind"),
    [
        (np.array([[[0, 4095]]], np.uint16), 1, -1024, np.int16),
        (np.array([[[0, 65535]]], np.uint16), 1, -1024, np.float32),
        (np.array([[[0, 40000]]], np.uint16), 1, -8192, np.int16),
        (np.array([[[-5, 9]]], np.int32), 2, 1, np.int16),
        (np.array([[[0.5, 9]]], np.float64), 1, 0, np.float32),
        (np.array([[[5, 9]]], np.int16), 0.5, 0, np.float32),
    ],
)
def test_no_value_wraps_around(stored, slope, intercept, kind):
    values = hounsfield(stored, slope, intercept)
    assert values.dtype == kind
    assert np.allclose(values, stored.astype(float) * slope + intercept)


def test_a_header_is_refused_where_it_cannot_be_used(tmp_path, chests):
    path = save(tmp_path / "a.mha", chests[False])
    with pytest.raises(UnreadableImage, match="possible for NIfTI and npz alone"):
        read_volume(path, header=Header((1, 1, 1)))
