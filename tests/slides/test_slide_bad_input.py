"""Slides that must not be used: a real broken file each, and the reason that a person gets to read."""

import numpy as np
import pytest
import tifffile
from PIL import Image
from slide_phantoms import retiled, save, tissue

from data_modules.readers.open_slide import open_slide
from data_modules.readers.slide import NoResolution
from domainvl.data import UnreadableImage


def written(name="a.tif", **options):
    def made(folder, pixels=None):
        pixels = tissue(600, 600) if pixels is None else pixels
        with tifffile.TiffWriter(folder / name) as tiff:
            tiff.write(pixels, metadata=None, **{"tile": (256, 256), "photometric": "rgb", **options})
        return folder / name

    return made


def truncated(folder):
    path = save(folder / "a.tif")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def cut_header(folder):
    path = save(folder / "a.svs")
    path.write_bytes(path.read_bytes()[:200])
    return path


def grey(folder):
    return written(photometric="minisblack")(folder, tissue(600, 600)[..., 0].copy())


def sixteen(folder):
    return written()(folder, tissue(600, 600).astype(np.uint16) * 256)


def with_alpha(folder):
    return written(extrasamples=["unassalpha"])(
        folder, np.dstack([tissue(600, 600), np.full((600, 600), 255, np.uint8)])
    )


def named(name, kind):
    def made(folder):
        Image.fromarray(tissue(200, 200)).save(folder / name, kind)
        return folder / name

    return made


def text(folder):
    (folder / "a.ndpi").write_text("no slide")
    return folder / "a.ndpi"


def empty(folder):
    (folder / "a.svs").touch()
    return folder / "a.svs"


def oblong(folder):
    return written(resolution=(20000, 10000), resolutionunit="CENTIMETER")(folder)


BAD = {
    "no resolution": (written(), "no microns per pixel.*add a column `mpp`"),
    "a printer's resolution": (written(resolution=(72, 72), resolutionunit="INCH"), "no microns per pixel"),
    "aperio without MPP": (lambda folder: save(folder / "a.svs", mpp=None), "AppMag is 20, which says too little"),
    "pixels that are not square": (oblong, "0.5 by 1 microns"),
    "truncated": (truncated, "truncated|damaged"),
    "cut in its header": (cut_header, "damaged|no slide inside"),
    "grey": (grey, "not RGB: 1 channel.* of 8 bits"),
    "16 bits": (sixteen, "not RGB: 3 channel.* of 16 bits"),
    "four channels": (with_alpha, "not RGB: 4 channel"),
    "a PNG called svs": (named("a.svs", "png"), r"\.svs, and no slide inside"),
    "a JPEG called tif": (named("a.tif", "jpeg"), r"\.tif, and no slide inside"),
    "a TIFF without tiles": (named("a.tif", "tiff"), "without tiles"),
    "text": (text, "no slide inside"),
    "empty": (empty, "no slide inside"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_slide_says_why(case, tmp_path):
    make, says = BAD[case]
    with pytest.raises(UnreadableImage, match=says) as found:
        open_slide(make(tmp_path))
    assert str(tmp_path) not in str(found.value)


@pytest.mark.parametrize(
    "make", [BAD["no resolution"][0], BAD["aperio without MPP"][0], BAD["a printer's resolution"][0]]
)
def test_a_stated_resolution_is_enough(make, tmp_path):
    path = make(tmp_path)
    with pytest.raises(NoResolution):
        open_slide(path)
    assert open_slide(path, mpp=0.25).mpp == 0.25
    with pytest.raises(UnreadableImage, match="mpp is 250"):
        open_slide(path, mpp=250)


def test_a_wrong_ending_does_not_matter(tmp_path):
    path = save(tmp_path / "a.tif").rename(tmp_path / "a.jpg")
    assert open_slide(path).mpp == pytest.approx(0.5)


def test_a_slide_of_one_level_is_read(tmp_path):
    slide = open_slide(save(tmp_path / "a.tif", levels=1))
    assert len(slide.levels) == 1
    assert slide.overview(8.0).shape == (69, 82, 3)


def test_a_missing_slide_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_slide(tmp_path / "a.svs")


def without(start, length):
    """Zeros in place of a part, which a download that broke off leaves in the middle of a file."""
    return lambda tile: tile[: int(start * len(tile))] + bytes(length) + tile[int(start * len(tile)) + length :]


def noise(tile):
    half = len(tile) // 2
    return tile[:half] + np.random.default_rng(0).bytes(1500) + tile[half + 1500 :]


CUT = {f"cut at {share}": lambda tile, share=share: tile[: int(share * len(tile))] for share in (0.05, 0.3, 0.6, 0.95)}
DAMAGE = {
    **CUT,
    "no end": lambda tile: tile[:-2],
    "no beginning": lambda tile: tile[100:],
    "zeros to the end": lambda tile: tile[: len(tile) // 2] + bytes(len(tile) - len(tile) // 2),
    "nothing but zeros": lambda tile: bytes(len(tile)),
}
WARNED = {"zeros in the middle": without(0.4, 3000), "noise in the middle": noise}


@pytest.mark.parametrize(
    ("packing", "damage"),
    [*(("jpeg", name) for name in DAMAGE | WARNED), *(("jpeg2000", name) for name in DAMAGE)],
)
def test_a_damaged_tile_is_never_taken_for_a_picture(packing, damage, tmp_path):
    whole = save(tmp_path / "whole.svs", tissue(512, 512, share=1.0), levels=1, packing=packing)
    path = retiled(tmp_path / "a.tif", whole, 3, (DAMAGE | WARNED)[damage])
    slide, reference = open_slide(path), open_slide(whole)
    for mpp in (0.5, 1.0, 0.7):
        with pytest.raises(UnreadableImage, match="a tile is damaged"):
            slide.read((256, 256), 64, mpp)
    assert np.array_equal(slide.read((0, 0), 256, 0.5), reference.read((0, 0), 256, 0.5))


def test_padding_behind_a_tile_is_no_damage(tmp_path):
    for packing in ("jpeg", "jpeg2000"):
        whole = save(tmp_path / "whole.svs", tissue(512, 512, share=1.0), levels=1, packing=packing)
        path = retiled(tmp_path / "a.tif", whole, 3, lambda tile: tile + bytes(7))
        assert np.array_equal(open_slide(path).read((256, 256), 256, 0.5), open_slide(whole).read((256, 256), 256, 0.5))
