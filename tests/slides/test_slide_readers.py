"""The reader against OpenSlide to the bit, and its field of view at any resolution."""

import hashlib
import multiprocessing
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import openslide
import pytest
import rasterio
import tifffile
from PIL import Image
from slide_phantoms import broken_tile, save, tissue

from data_modules.readers.open_slide import open_slide
from data_modules.readers.slide import WHITE, Level, SlideReader, shrunk
from data_modules.readers.slide_openslide import OtherSlide
from data_modules.readers.slide_tiff import TiffSlide
from domainvl.data import UnreadableImage
from domainvl.samples.slides.textures import texture

KINDS = {"jpeg": ("a.tif", "jpeg"), "jpeg aperio": ("a.svs", "jpeg"), "jpeg2000": ("a.svs", "jpeg2000")}


def theirs(slide, level, x, y, width, height):
    scale = round(slide.level_downsamples[level])
    place = (x * scale, y * scale)
    return np.asarray(slide.read_region(place, level, (width, height)))[..., :3]


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_openslides_to_the_bit(kind, tmp_path):
    name, packing = KINDS[kind]
    # Sides divisible by four, so that places of the coarse level are whole pixels of level 0 in OpenSlide too.
    path = save(tmp_path / name, tissue(1100, 1300), packing=packing)
    ours, reference = open_slide(path), openslide.OpenSlide(path)
    assert isinstance(ours, TiffSlide)
    assert [(one.width, one.height) for one in ours.levels] == list(reference.level_dimensions)
    assert ours.mpp == pytest.approx(float(reference.properties["openslide.mpp-x"]), rel=1e-6)
    rng = np.random.default_rng(1)
    for number in range(200):
        level = number % 2
        width, height = (int(side) for side in rng.integers(1, 200, 2))
        x = int(rng.integers(0, ours.levels[level].width - width))
        y = int(rng.integers(0, ours.levels[level].height - height))
        assert np.array_equal(ours.region(level, x, y, width, height), theirs(reference, level, x, y, width, height)), (
            level,
            x,
            y,
            width,
            height,
        )


def test_the_other_reader_gives_the_same_pixels(tmp_path):
    path = save(tmp_path / "a.tif")
    fast, slow = open_slide(path, exact=True), OtherSlide(path)
    assert slow.levels == fast.levels
    for place, size, mpp in (((100, 60), 200, 0.5), ((-40, 900), 256, 0.77), ((320, 320), 128, 1.0)):
        assert np.array_equal(fast.read(place, size, mpp), slow.read(place, size, mpp))


def test_packings_of_tiff_that_are_no_jpeg(tmp_path):
    pixels = tissue(300, 400)
    for name in ("lzw", "deflate", None):
        with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
            tiff.write(pixels, tile=(128, 128), compression=name, photometric="rgb", metadata=None)
        slide = open_slide(tmp_path / "a.tif", mpp=0.25)
        assert np.array_equal(slide.region(0, 0, 0, 400, 300), pixels)


class Ruler(SlideReader):
    """A slide whose red is a pixel's x and whose green is its y, in units of 8 pixels of level 0."""

    def region(self, level, x, y, width, height, shrink=1, out=None):
        scale = self.levels[level].downsample
        middle = [((at + np.arange(length) + 0.5) * scale) / 8 for at, length in ((x, width), (y, height))]
        pixels = np.zeros((height, width, 3), np.float32)
        pixels[..., 0], pixels[..., 1] = middle[0][None, :], middle[1][:, None]
        whole = pixels.reshape(height // shrink, shrink, width // shrink, shrink, 3).mean(axis=(1, 3))
        return np.rint(whole).astype(np.uint8)


@pytest.mark.parametrize("mpp", [0.2325, 0.25, 0.2738, 0.33, 0.499])
@pytest.mark.parametrize("downsample", [4.0, 3.994, 4.0001, 1.9996])
@pytest.mark.parametrize("target", [0.25, 0.5, 1.0, 2.0])
def test_field_of_view_is_exact(mpp, downsample, target):
    wide = 1800
    levels = tuple(Level(int(wide / scale), int(wide / scale), scale) for scale in (1.0, downsample))
    slide = Ruler("none", levels, mpp)
    # A scale of 8 pixels fits 255 of them into a byte.
    size = int(min(256, 1500 * mpp / target))
    tile = slide.read((100, 60), size, target).astype(float)
    assert tile.shape == (size, size, 3)
    step = target / mpp
    for channel, start, axis in ((0, 100, 0), (1, 60, 1)):
        line = tile[..., channel].mean(axis=axis) * 8
        slope, first = np.polyfit(np.arange(size), line, 1)
        assert slope == pytest.approx(step, rel=5e-3)
        assert first == pytest.approx(start + step / 2, abs=max(1.5, downsample / 2, step / 2))  # a byte holds 8 pixels


def test_level_that_is_fine_enough_is_read():
    slide = Ruler("none", tuple(Level(100, 100, scale) for scale in (1.0, 4.0, 16.0)), 0.25)
    for target, level in ((0.2, 0), (0.25, 0), (0.9, 0), (0.92, 1), (1.0, 1), (3.9, 2), (8.0, 2)):
        assert slide.level_for(target) == level


def test_halving_is_a_mean():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    exact = pixels.reshape(32, 2, 48, 2, 3).mean(axis=(1, 3))
    assert np.array_equal(shrunk(pixels, 2), np.floor(exact + 0.5).astype(np.uint8))
    assert np.array_equal(shrunk(pixels, 2), np.asarray(Image.fromarray(pixels).reduce(2)))
    assert np.abs(shrunk(pixels, 4) - pixels.reshape(16, 4, 24, 4, 3).mean(axis=(1, 3))).max() <= 0.51


@pytest.mark.parametrize("packing", ["jpeg2000", "deflate"])
def test_a_shrunk_region_is_the_region_shrunk(packing, tmp_path):
    path = tmp_path / "a.svs"
    if packing == "jpeg2000":
        save(path, packing=packing)
    else:
        with tifffile.TiffWriter(path) as tiff:
            tiff.write(tissue(), tile=(256, 256), compression=packing, photometric="rgb", metadata=None)
    slide = open_slide(path, mpp=0.25)
    for x, y in ((256, 256), (128, 256), (131, 77), (0, 0)):
        whole = slide.region(0, x, y, 512, 256)
        assert np.array_equal(slide.region(0, x, y, 512, 256, 2), shrunk(whole, 2))


def area_mean(pixels, left, top, step, size):
    """The mean over squares whose sides are no whole pixels."""

    def weights(start, length):
        edges = start + step * np.arange(size + 1)
        at = np.arange(length)
        inside = np.minimum(edges[1:, None], at + 1) - np.maximum(edges[:-1, None], at)
        return inside.clip(0) / step

    return np.einsum("oy,yxc,px->opc", weights(top, len(pixels)), pixels, weights(left, pixels.shape[1]), optimize=True)


@pytest.mark.parametrize("ratio", [1.5, 1.83, 2.15, 3.03])
def test_any_other_ratio_is_close_to_the_mean_over_the_area(ratio, tmp_path):
    slide = open_slide(save(tmp_path / "a.tif", stained(), levels=1))
    whole = slide.region(0, 0, 0, 768, 768).astype(float)
    off = np.abs(slide.read((37, 11), 192, 0.5 * ratio) - area_mean(whole, 37, 11, ratio, 192))
    assert off.mean() < 0.75
    assert np.percentile(off, 99) < 8


def stained():
    rng = np.random.default_rng(0)
    kinds = [texture(rng, kind, 384) for kind in ("tumor", "stroma", "lymphocytes", "glands")]
    picture = np.concatenate([np.concatenate(kinds[:2], 1), np.concatenate(kinds[2:], 1)], 0)[:768, :768]
    return (np.clip(picture + rng.normal(0, 0.02, picture.shape), 0, 1) * 255).astype(np.uint8)


def noisy():
    """Noisier than any scanner: neighbours differ by 23 grey levels in the mean."""
    return np.clip(np.random.default_rng(0).normal(128, 20, (768, 768, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("colours", ["YCBCR", "RGB"])
@pytest.mark.parametrize(("picture", "mean", "most"), [(stained, 0.6, 3.5), (noisy, 2.5, 10.0)])
def test_jpeg_decoded_at_a_fraction_is_the_mean_of_its_pixels(picture, mean, most, colours, tmp_path):
    pixels = picture()
    # GDAL writes tiles without tables, which lie in a tag, and chroma at half the resolution.
    options = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "JPEG", "jpeg_quality": 85}
    shape = {"width": 768, "height": 768, "count": 3, "dtype": "uint8", "photometric": colours}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", **options, **shape) as file:
            file.write(pixels.transpose(2, 0, 1))
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.pages[0].jpegtables
        assert tiff.pages[0].photometric == tifffile.PHOTOMETRIC[colours]
    slide = open_slide(tmp_path / "a.tif", mpp=0.25)
    assert isinstance(slide, TiffSlide)
    for shrink in (2, 4, 8, 16, 6):
        for x, y in ((0, 0), (96, 48)):
            full = slide.region(0, x, y, 672, 480).astype(float)
            exact = full.reshape(480 // shrink, shrink, 672 // shrink, shrink, 3).mean(axis=(1, 3))
            off = np.abs(slide.region(0, x, y, 672, 480, shrink) - exact)
            assert off.mean() < mean, (shrink, x, y)
            assert np.percentile(off, 99) < most, (shrink, x, y)
    whole = slide.region(0, 0, 0, 512, 512)
    for one in (copy := open_slide(tmp_path / "a.tif", 0.25, exact=True), pickle.loads(pickle.dumps(copy))):  # noqa: S301
        assert np.array_equal(one.read((0, 0), 256, 0.5), shrunk(whole, 2))
    # Squares that lie across the decoder's are averaged from all pixels.
    assert np.array_equal(slide.region(0, 33, 18, 64, 64, 2), shrunk(slide.region(0, 33, 18, 64, 64), 2))


def test_outside_is_glass(tmp_path):
    pixels = tissue(300, 300, share=1.0)
    slide = open_slide(save(tmp_path / "a.tif", pixels, levels=1))
    tile = slide.read((-50, -60), 400, 0.5)
    assert (tile[:60] == WHITE).all()
    assert (tile[:, :50] == WHITE).all()
    assert (tile[360:] == WHITE).all()
    assert (tile[:, 350:] == WHITE).all()
    assert np.abs(tile[60:360, 50:350].astype(int) - pixels).mean() < 8


def test_label_and_thumbnail_pages_are_never_read(tmp_path):
    pixels = tissue(cell=160)
    path = save(tmp_path / "a.svs", pixels, levels=3)
    with tifffile.TiffFile(path) as tiff:
        assert sum("label" in page.description for page in tiff.pages) == 1
    slide = open_slide(path)
    assert [level.width for level in slide.levels] == [1300, 325, 82]
    # The label is the only green thing in the file.
    overview = slide.overview(8.0).astype(int)
    assert overview.shape == (69, 82, 3)
    reference = np.asarray(Image.fromarray(pixels).resize((82, 69), Image.Resampling.BOX)).astype(int)
    assert np.abs(overview - reference).mean() < 8


def _hash(slide, place):
    return hashlib.sha256(slide.read(place, 64, 0.61).tobytes()).hexdigest()


def _hashes(slide, places, queue=None):
    found = [_hash(slide, place) for place in places]
    if queue is not None:
        queue.put(found)
    return found


def test_threads_forks_and_copies_read_the_same(tmp_path):
    for reader in (open_slide, OtherSlide):
        slide = reader(save(tmp_path / "a.tif"))
        places = [(int(x), int(y)) for x, y in np.random.default_rng(0).integers(0, 1000, (64, 2))]
        expected = _hashes(slide, places)
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(partial(_hash, slide), places)) == expected
        fork = multiprocessing.get_context("fork")
        queue = fork.SimpleQueue()
        worker = fork.Process(target=_hashes, args=(slide, places, queue))
        worker.start()
        assert queue.get() == expected
        worker.join()
        assert _hashes(pickle.loads(pickle.dumps(slide)), places) == expected  # noqa: S301


def test_a_broken_tile_is_told_and_the_rest_is_read(tmp_path):
    path = broken_tile(save(tmp_path / "a.tif", levels=1), number=1)
    whole = open_slide(save(tmp_path / "b.tif", levels=1))
    for slide in (open_slide(path), OtherSlide(path)):
        with pytest.raises(UnreadableImage, match="damaged"):
            slide.read((256, 0), 256, 0.5)
        with pytest.raises(UnreadableImage, match="damaged"):
            slide.read((0, 0), 256, 1.0)
        assert np.array_equal(slide.read((0, 0), 256, 0.5), whole.read((0, 0), 256, 0.5))
        assert slide.overview(8.0).shape == (69, 82, 3)
