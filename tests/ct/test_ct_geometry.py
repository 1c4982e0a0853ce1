"""Turning and resampling, against SimpleITK and MONAI, on files that SimpleITK wrote."""

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from ct_phantoms import affine, body, image, save
from scipy.ndimage import binary_erosion

from data_modules.readers.volume import read_volume
from domainvl.data import UnreadableImage
from domainvl.data.volumes.plan import VolumePlan
from domainvl.data.volumes.resample import Taps, new_length, resampled
from domainvl.data.volumes.volume import LPS_TO_RAS, Volume, check_affine

ORIENTATIONS = ("RAS", "LPS", "LAS", "RPI", "PIR", "ASL", "SRA", "IPL")
SPACINGS = ((3.0, 2.5, 2.5), (5.0, 4.0, 4.0), (6.5, 7.0, 5.3))
ALL_CODES = ["".join(code) for pairs in permutations(("RL", "AP", "SI")) for code in product(*pairs)]


@pytest.fixture(scope="module")
def sources():
    """A noisy body, whose values are no longer the same one voxel further."""
    voxels = body(noise=60.0)
    return {oblique: Volume(voxels, affine(oblique=oblique)) for oblique in (False, True)}


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("oblique", [False, True], ids=["straight", "oblique"])
@pytest.mark.parametrize("code", ORIENTATIONS)
def test_preparing_agrees_with_simpleitk_and_monai(tmp_path, sources, code, oblique, spacing):
    path = save(tmp_path / "scan.nii.gz", sources[oblique].oriented(code))
    volume = read_volume(path)
    assert volume.orientation == code
    voxels, placed = VolumePlan(spacing, clip=(-2000, 3071)).prepare(volume)

    # The untouched file, sampled by ITK at the places that the affine claims: turning, grid and affine in one.
    theirs = itk_at(sitk.ReadImage(str(path), sitk.sitkFloat32), voxels.shape, placed)
    assert within(voxels, theirs) <= 0.51
    # The body once more inside, so that the test cannot pass on air alone.
    assert (body_of(voxels)).mean() > 0.2

    from monai.data import MetaTensor
    from monai.transforms import Spacing

    # MONAI gets the affine before NIfTI rounded it to float32: with that rounding its test for the first corner (an
    # absolute 1e-8) fails for oblique volumes, and it puts the grid elsewhere, up to half a voxel away.
    turned = sources[oblique].oriented(code).oriented("RAS")
    tensor = torch.from_numpy(np.ascontiguousarray(turned.voxels)).permute(2, 1, 0)[None].float()
    made = Spacing(spacing[::-1], mode="bilinear", padding_mode="border")(
        MetaTensor(tensor, affine=torch.from_numpy(turned.affine))
    )
    assert tuple(made.shape[1:]) == voxels.shape[::-1]
    assert np.abs(made[0].permute(2, 1, 0).numpy() - voxels).max() <= 1
    assert np.allclose(made.affine.numpy(), placed, atol=1e-3)


def itk_at(picture, shape, placed):
    """What SimpleITK finds at every voxel of a grid; its nearest value where the grid leaves the picture."""
    lps = LPS_TO_RAS @ placed
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(shape[::-1])
    resampler.SetOutputSpacing(lengths.tolist())
    resampler.SetOutputDirection((lps[:3, :3] / lengths).ravel().tolist())
    resampler.SetOutputOrigin(lps[:3, 3].tolist())
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetUseNearestNeighborExtrapolator(True)
    return sitk.GetArrayFromImage(resampler.Execute(picture))


def body_of(voxels):
    return binary_erosion(voxels > -500, iterations=1)


def within(ours, theirs):
    inside = body_of(ours)
    # The last voxel of an axis may lie beyond the last centre, where programs extrapolate differently.
    inside[-1:], inside[:, -1:], inside[:, :, -1:] = False, False, False
    return np.abs(ours - theirs)[inside].max()


@pytest.mark.parametrize("oblique", [False, True], ids=["straight", "oblique"])
@pytest.mark.parametrize("code", ALL_CODES)
def test_turning_is_exact_and_can_be_taken_back(sources, code, oblique):
    source = sources[oblique]
    turned = source.oriented(code)
    assert turned.orientation == code
    assert np.shares_memory(turned.voxels, source.voxels), "turning copies nothing"
    back = turned.oriented("RAS")
    assert np.array_equal(back.affine, source.affine), "not one bit of the affine may change"
    assert np.array_equal(back.voxels, source.voxels)
    # A voxel is in the same place of the patient whichever way the axes run.
    for index in ((0, 0, 0), (5, 11, 17), tuple(n - 1 for n in source.voxels.shape)):
        place = source.affine @ [*index[::-1], 1]
        there = np.rint(np.linalg.solve(turned.affine, place)).astype(int)
        assert turned.voxels[tuple(there[2::-1])] == source.voxels[index]
    # SimpleITK's own turn gives the same array.
    theirs = sitk.DICOMOrient(image(turned), "RAS")
    assert np.array_equal(sitk.GetArrayViewFromImage(theirs), source.voxels)


def test_a_cut_keeps_every_voxel_in_its_place(sources):
    source = sources[True].oriented("PIR")
    part = source.cut((slice(3, 20), slice(None), slice(7, 9)))
    assert np.allclose(part.affine @ [0, 0, 0, 1], source.affine @ [7, 0, 3, 1])
    assert part.voxels[2, 4, 1] == source.voxels[5, 4, 8]


@pytest.mark.parametrize("size", [None, (40, 30, 80), (11, 70, 33)], ids=str)
@pytest.mark.parametrize("crop", ["body", "lungs"])
def test_cropping_before_resampling_moves_no_voxel(sources, crop, size):
    volume = sources[True].oriented("LPS")
    whole, placed = VolumePlan((3.0, 2.5, 2.5)).prepare(volume)
    part, moved = VolumePlan((3.0, 2.5, 2.5), size, crop=crop).prepare(volume)
    first = np.rint(np.linalg.solve(placed, moved[:, 3])).astype(int)[2::-1]
    assert np.allclose(placed @ [*first[::-1], 1], moved[:, 3]), "both are one grid"
    padded = np.pad(whole, 100, constant_values=-1024)
    start = first + 100
    same = padded[tuple(slice(a, a + n) for a, n in zip(start, part.shape, strict=True))]
    assert np.array_equal(part, same)
    assert size is None or part.shape == size
    if size is None:
        assert part.size < whole.size
        assert (part > -500).sum() >= 0.99 * (whole > -500).sum() or crop == "lungs"


def test_no_lung_is_cut_away(sources):
    preset = VolumePlan((5.0, 4.0, 4.0), crop="lungs", margin=0.0)
    voxels, _ = preset.prepare(sources[False])
    whole = sources[False].voxels
    lung = [np.count_nonzero((part < -700) & (part > -980)) for part in (voxels, whole)]
    assert lung[0] == lung[1] > 1000
    assert all(ours < theirs for ours, theirs in zip(voxels.shape, whole.shape, strict=True))


def test_values_are_rounded_and_not_cut_off():
    ramp = np.broadcast_to(np.arange(0, -40, -1, dtype=np.int16)[:, None, None], (40, 4, 4)).copy()
    taps = [Taps.of(40, 0.4, 0, 90, "linear"), *(Taps.of(4, 1.0, 0, 4, "linear") for _ in range(2))]
    out = resampled(ramp, taps, (-1024, 3071))[:, 0, 0]
    assert np.array_equal(out, np.rint(-np.arange(90) * 0.4))


def test_area_keeps_the_mean_and_averages_noise():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 100, (60, 60, 60)).astype(np.int16)
    thick, thin = coarse(noise, "area"), coarse(noise, "linear")
    assert thick.std() < 100 / np.sqrt(20)
    assert thin.std() > 2 * thick.std()
    blocks = noise.reshape(20, 3, 20, 3, 20, 3).mean(axis=(1, 3, 5))
    # Where a coarse voxel covers whole fine ones, its value is their mean: centres 1, 4, 7, ...
    taps = [Taps.of(60, 3.0, 0, 20, "area") for _ in range(3)]
    shifted = [Taps(np.clip(one.index + 1, 0, 59), one.weight) for one in taps]
    inner = (slice(1, -1),) * 3
    assert np.abs(resampled(noise, shifted, (-1024, 3071))[inner] - blocks[inner]).max() <= 0.51


def coarse(noise, kind):
    return resampled(noise, [Taps.of(60, 3.0, 0, 20, kind) for _ in range(3)], (-1024, 3071)).astype(float)


@pytest.mark.parametrize("kind", ["linear", "area"])
@pytest.mark.parametrize(("length", "step"), [(10, 0.3), (10, 1.0), (11, 1.7), (300, 1.5), (7, 6.9)])
def test_shares_add_up_to_one_and_stay_inside(length, step, kind):
    taps = Taps.of(length, step, 0, new_length(length, 1.0, step), kind)
    assert np.allclose(taps.weight.sum(axis=0), 1, atol=1e-6)
    assert taps.index.min() >= 0
    assert taps.index.max() < length
    assert (taps.weight >= 0).all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: m.__setitem__((0, 0), np.nan), "not finite"),
        (lambda m: m.__setitem__((slice(0, 3), 0), 0), "no length"),
        (lambda m: m.__setitem__((slice(0, 3), 1), m[:3, 0]), "two axes lie in one another"),
        (lambda m: m.__setitem__((slice(0, 3), slice(0, 3)), m[:3, :3] / 1000), r"voxels of 0.005 x 0.004 x 0.004 mm"),
        (lambda m: m.__setitem__((1, 2), 1.0), r"11\.3 degrees off a right angle \(gantry tilt"),
    ],
)
def test_a_broken_affine_is_named(spoil, message):
    matrix = affine()
    spoil(matrix)
    with pytest.raises(UnreadableImage, match=message):
        check_affine(matrix, (3, 3, 3))
