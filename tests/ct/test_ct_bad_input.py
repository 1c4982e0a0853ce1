"""Volumes that must not be used: a real broken file each, and the reason that a person gets to read."""

import gzip
import struct

import numpy as np
import pytest
from ct_phantoms import affine, body, chest, save, series
from test_ct_readers import nifti1

from data_modules.readers.volume import read_volume
from data_modules.readers.voxels import Header
from domainvl.data import UnreadableImage
from domainvl.data.volumes.plan import VolumePlan
from domainvl.data.volumes.volume import Volume

PLAN = VolumePlan((10.0, 8.0, 8.0), region="chest")


def volume(**shape):
    return Volume(body(**shape), affine())


def patched(path, place, kind, *values):
    raw = bytearray(path.read_bytes())
    struct.pack_into(kind, raw, place, *values)
    path.write_bytes(raw)
    return path


def write(content):
    def made(folder):
        path = folder / "a.nii"
        path.write_bytes(content(body((8, 9, 10))))
        return path

    return made


def cut_gzip(folder):
    path = chest(folder / "a.nii.gz")
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def flipped_bit(folder):
    path = chest(folder / "a.nii.gz")
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 1
    path.write_bytes(raw)
    return path


def short_gzip(folder):
    path = folder / "a.nii.gz"
    path.write_bytes(gzip.compress(nifti1(body((8, 9, 10)))[:-100]))
    return path


def cut(name, keep):
    def made(folder):
        path = chest(folder / name)
        path.write_bytes(path.read_bytes()[:keep])
        return path

    return made


def not_a_number(folder):
    voxels = body().astype(np.float32)
    voxels[3, 4, 5] = np.nan
    voxels[7] = np.inf
    return save(folder / "a.nii.gz", Volume(voxels, affine()))


def head(folder):
    d, h, w = 48, 56, 64
    z, y, x = np.ogrid[-1 : 1 : d * 1j, -1 : 1 : h * 1j, -1 : 1 : w * 1j]
    voxels = np.where(x**2 + y**2 + z**2 < 0.6, 35, -1000).astype(np.int16)
    voxels[(x**2 + y**2 + z**2 < 0.6) & (x**2 + y**2 + z**2 > 0.5)] = 900
    voxels[(x**2 + (y - 0.5) ** 2 + z**2) < 0.005] = -900
    return save(folder / "a.nii.gz", Volume(voxels, affine((3.0, 3.0, 3.0))))


def again(folder):
    """Hounsfield units, and a header that rescales them once more."""
    path = folder / "a.nii"
    path.write_bytes(nifti1(body(), slope=1.0, intercept=-1024.0))
    return path


def four(folder):
    path = folder / "a.nii"
    path.write_bytes(nifti1(body((8, 9, 10)), dim=(4, 10, 9, 4, 2, 1, 1, 1)))
    return path


def dicom(change=lambda folder: None, **arguments):
    def made(folder):
        path = series(folder / "series", arguments.pop("volume", volume()), **arguments)
        change(path)
        return path

    return made


def tilted(folder):
    """Slices that are stacked along z, and lie turned about x: what a tilted gantry leaves in the files."""
    matrix = affine(oblique=False)
    c, s = np.cos(np.radians(12)), np.sin(np.radians(12))
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    matrix[:3, :2] = turn @ matrix[:3, :2]
    return series(folder / "series", Volume(body(), matrix))


def sheared(folder):
    path = folder / "a.nii"
    path.write_bytes(nifti1(body()))
    return patched(path, 280 + 4 * 2, "<f", 1.5)


def lost(folder):
    made = dicom()(folder)
    for number in (5, 6, 20):
        (made / f"s-{number:03d}.dcm").unlink()
    return made


def in_order(folder, order):
    return series(folder / "series", volume(), order=order)


def twice(folder):
    """Every place holds two phases: a 4D series."""
    made = dicom()(folder)
    series(made, Volume(body(seed=1), affine()), name="t")
    import pydicom

    for file in made.glob("t-*.dcm"):
        dataset = pydicom.dcmread(file)
        dataset.SeriesInstanceUID = pydicom.dcmread(made / "s-000.dcm").SeriesInstanceUID
        dataset.save_as(file)
    return made


def uneven(folder):
    made = dicom()(folder)
    import pydicom

    for number in range(10):
        file = made / f"s-{number:03d}.dcm"
        dataset = pydicom.dcmread(file)
        dataset.ImagePositionPatient[2] = float(dataset.ImagePositionPatient[2]) + 1.7
        dataset.save_as(file)
    return made


def edit(**tags):
    """Change one file of a series."""

    def change(folder):
        import pydicom

        file = folder / "s-007.dcm"
        dataset = pydicom.dcmread(file)
        for tag, value in tags.items():
            if value is None:
                delattr(dataset, tag)
            else:
                setattr(dataset, tag, value)
        dataset.save_as(file)

    return change


def other_series(folder):
    series(folder, Volume(body()[:20], affine()), name="other")


def disagreeing(folder):
    path = chest(folder / "a.nii")
    return patched(path, 280, "<f", -struct.unpack_from("<f", path.read_bytes(), 280)[0])


def pickled(folder):
    path = folder / "a.npz"
    np.savez(path, ct=np.array([{"code": 1}], object))
    return path


def archive(**arrays):
    def made(folder):
        np.savez(folder / "a.npz", **arrays)
        return folder / "a.npz"

    return made


def text(name, content):
    def made(folder):
        (folder / name).write_bytes(content)
        return folder / name

    return made


def no_directions(folder):
    path = chest(folder / "a.nrrd")
    raw = path.read_bytes().replace(b"space directions:", b"#pace directions:")
    path.write_bytes(raw)
    return path


def scaled(folder):
    return save(folder / "a.nii.gz", Volume((body().astype(np.float32) + 1000) / 2000, affine()))


def stored(folder):
    return save(folder / "a.nii.gz", Volume(body() + np.int16(1024), affine()))


BAD = [
    # What the issue names.
    ("broken affine", write(lambda v: nifti1(v, sform=False)), "neither the sform nor the qform is set"),
    ("flat affine", lambda f: patched(write(nifti1)(f), 280, "<12f", *[0.0] * 12), "an axis has no length"),
    ("affine of NaN", lambda f: patched(write(nifti1)(f), 280, "<f", np.nan), "not finite"),
    ("sheared affine", sheared, r"degrees off a right angle \(gantry tilt"),
    ("forms disagree", disagreeing, r"sform \(LAS\) and qform \(RAS\) disagree"),
    ("NaN voxels", not_a_number, r"3585 of 172032 voxels are not finite"),
    ("head", head, r"ml of air inside the body, less than the 300 .* is no chest"),
    ("HU rescaled again", again, r"slope and intercept seem to be applied to Hounsfield units again"),
    ("one slice", lambda f: in_order(f, [7]), "the series has one slice"),
    ("mixed series", dicom(other_series), r"the folder holds 2 series \(48, 20 slices\); name a file of the one"),
    ("missing slices", lost, r"about 3 slices are missing: [23] gaps where slices are 5 mm apart"),
    ("gantry tilt", tilted, r"gantry tilt: its slices are stacked 12\.0 degrees off"),
    ("4D file", four, r"it has 4 dimensions \(10 x 9 x 4 x 2\)"),
    ("4D series", twice, r"48 of 96 slices lie where another one lies: .*4D"),
    ("gz cut short", cut_gzip, "the gzip stream is cut short"),
    ("too large", lambda f: patched(write(nifti1)(f), 42, "<3h", 20000, 20000, 20), "GiB that one volume may take"),
    # What else is found in archives.
    ("gz with a flipped bit", flipped_bit, "the gzip stream is damaged"),
    ("gz whose content is short", short_gzip, r"the gzip stream ends after 1340 of the 1440 bytes"),
    ("empty file", text("a.nii.gz", b""), r"the file is empty \(0 bytes\)"),
    ("text as NIfTI", text("a.nii", b"hello" * 200), "it is no NIfTI file"),
    ("nii cut short", cut("a.nii", 20000), "the file is cut short: it has 20000 bytes, its header promises 344416"),
    ("nrrd cut short", cut("a.nrrd", 20000), "SimpleITK cannot read it"),
    ("mha cut short", cut("a.mha", 20000), "cannot read it"),
    ("nrrd without directions", no_directions, "no space or no space directions"),
    ("mha that is none", text("a.mha", b"hello"), "neither NRRD nor MetaImage"),
    ("colour", lambda f: patched(write(nifti1)(f), 70, "<h", 128), "voxels of NIfTI type 128"),
    ("pair of files", lambda f: patched(write(nifti1)(f), 344, "<4s", b"ni1\0"), r"second file \(.img\)"),
    ("scaled to 0..1", scaled, "so these were scaled or windowed"),
    ("stored values", stored, "the intercept was not applied"),
    ("slices unevenly spaced", uneven, "its slices are unevenly spaced: 3.3 to 6.7 mm, usually 5"),
    ("slices of two sizes", dicom(edit(Rows=28)), "its slices differ in size: 47 of 56 x 64, 1 of 28 x 64"),
    (
        "slices in two planes",
        dicom(edit(ImageOrientationPatient=[1, 0, 0, 0, 0, 1])),
        "its slices lie in different planes",
    ),
    ("slices of two spacings", dicom(edit(PixelSpacing=[4, 4.5])), "its slices differ in pixel spacing"),
    ("no place", dicom(edit(ImagePositionPatient=None)), "1 of 48 DICOM files are damaged or lack series, place"),
    ("no rescale", dicom(edit(RescaleSlope=None)), "a slice has no RescaleSlope"),
    ("short pixels", dicom(edit(PixelData=b"\0" * 100)), "the pixel data of a slice do not fit its header"),
    ("a damaged slice", dicom(lambda f: (f / "s-003.dcm").write_bytes(b"x" * 500)), "1 of 48 DICOM files are damaged"),
    ("burned in", dicom(edit(BurnedInAnnotation="YES")), "text is burned into the pixels"),
    ("head by its tag", dicom(BodyPartExamined="HEAD"), "names the body part 'head', which is no chest"),
    (
        "only a localizer",
        dicom(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        "there is no CT series: of 48 DICOM files 48 are localizers",
    ),
    ("an empty folder", lambda f: f, "there is no CT series: of 0 DICOM files"),
    ("pickle in npz", pickled, "pickled Python objects, which are code"),
    ("npz without a place", archive(ct=body((8, 9, 10))), "no affine is known"),
    ("npz with two volumes", archive(a=body((8, 9, 10)), b=body((8, 9, 10))), "holds 2 arrays of three axes"),
    ("npz that is none", text("a.npz", b"PK" + b"x" * 100), "no whole .npz archive"),
    ("a picture", text("a.png", b"x" * 200), ".png is no volume"),
]


@pytest.mark.parametrize(("write", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_broken_volume_is_refused_with_its_reason(tmp_path, write, message):
    path = write(tmp_path)
    with pytest.raises(UnreadableImage, match=message) as found:
        PLAN.prepare(read_volume(path))
    assert "SECRET" not in str(found.value).upper(), "patients stay out of messages"
    assert str(tmp_path) not in str(found.value), "the list of rejects has the path"


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha", "a.npz", "series"])
def test_a_sound_chest_passes_the_same_checks(tmp_path, name):
    path = dicom()(tmp_path) if name == "series" else chest(tmp_path / name)
    voxels, _ = PLAN.prepare(read_volume(path))
    assert (voxels > -500).mean() > 0.2


def test_a_stated_header_is_never_applied_to_hounsfield_units_unseen(tmp_path):
    """CT-RATE v2 read with the table of v1."""
    header = Header((4.0, 4.0, 5.0), slope=1.0, intercept=-1024.0)
    path = chest(tmp_path / "a.nii.gz")
    with pytest.raises(UnreadableImage, match="applied to Hounsfield units again"):
        PLAN.prepare(read_volume(path, header=header))


def test_the_limit_is_asked_before_anything_is_allocated(tmp_path):
    path = chest(tmp_path / "a.mha")
    for made in (path, dicom()(tmp_path), chest(tmp_path / "b.npz"), chest(tmp_path / "c.nii.gz")):
        with pytest.raises(UnreadableImage, match=r"the header promises 48 x 56 x 64 voxels"):
            read_volume(made, limit=100_000)
