"""Heat-maps: values where tiles lie, files that other readers open, and a callback that draws a planted lesion."""

import numpy as np
import openslide
import pytest
import tifffile
import torch
from lightning.pytorch import Trainer
from PIL import Image

from data_modules import SlideHeatmaps, WholeSlides
from data_modules.whole_slides.heatmaps import coloured, tile_map, write_pyramid
from domainvl import samples
from domainvl.adapters import ABMIL
from domainvl.backbones import HuggingFace
from domainvl.data.feature_file import Geometry
from domainvl.tasks import SlideClassification

GEOMETRY = Geometry(0.25, 0.5, 8, 4, 80, 48)


def test_values_lie_where_their_tiles_do():
    """Tiles of 16 pixels at level 0, on a grid of 4; two overlap by half."""
    places = np.array([[0, 0], [8, 0], [64, 32]])
    found = tile_map(places, np.array([1.0, 3.0, 5.0]), GEOMETRY, 4.0)
    assert found.shape == (12, 20)
    assert found[0].tolist()[:6] == [1, 1, 2, 2, 3, 3]
    assert np.isnan(found[0, 6:]).all()
    assert np.isnan(found[4:8]).all()
    assert (found[8:, 16:] == 5).all()
    assert np.isfinite(found).sum() == 4 * 6 + 16


def test_colours_rise_and_glass_is_white():
    pixels = coloured(np.array([[0.0, 0.5, 1.0, np.nan]]), 0, 1)
    assert pixels[0, 3].tolist() == [255, 255, 255]
    assert pixels[0, 0, 2] > pixels[0, 0, 0]
    assert pixels[0, 2, 0] > pixels[0, 2, 2]
    assert coloured(np.ones((1, 2)), 1, 1).shape == (1, 2, 3)


def test_a_pyramid_opens_in_openslide_with_its_resolution(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (700, 1030, 3), dtype=np.uint8)
    write_pyramid(tmp_path / "a.tif", pixels, 3.7)
    slide = openslide.OpenSlide(tmp_path / "a.tif")
    assert slide.level_dimensions == ((1030, 700), (515, 350), (258, 175), (129, 88))
    assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(3.7, rel=1e-4)
    read = np.asarray(slide.read_region((0, 0), 0, (1030, 700)).convert("RGB"))
    assert (read == pixels).all()
    assert tifffile.imread(tmp_path / "a.tif").shape == (700, 1030, 3)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """One small slide, tested with an untrained head and drawn twice."""
    root = tmp_path_factory.mktemp("heat")
    samples.write("slides", root / "slides", seed=5, patients=3)
    torch.manual_seed(0)
    data = WholeSlides(str(root / "slides"))
    task = SlideClassification(HuggingFace("builtin:tiny"), ABMIL(hidden=8, width=4))
    callbacks = [
        SlideHeatmaps(str(root / "classes"), class_name="tumor"),
        SlideHeatmaps(str(root / "attention"), of="attention"),
    ]
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    Trainer(accelerator="cpu", default_root_dir=root, callbacks=callbacks, **quiet).test(task, data, verbose=False)
    return root


@pytest.mark.parametrize("folder", ["classes", "attention"])
def test_a_test_draws_its_slides(drawn, folder):
    pyramids = sorted((drawn / folder).glob("*.tif"))
    assert len(pyramids) == len(sorted((drawn / folder).glob("*.png"))) >= 1
    for pyramid in pyramids:
        name = pyramid.stem.removeprefix("slides_")
        original = next((drawn / "slides" / "slides").glob(f"{name}.*"))
        with openslide.OpenSlide(original) as slide, openslide.OpenSlide(pyramid) as heat:
            size = [float(one.properties["openslide.mpp-x"]) * one.dimensions[0] for one in (slide, heat)]
            assert size[0] == pytest.approx(size[1], rel=0.02)
        with Image.open(pyramid.with_suffix(".png")) as overview:
            assert max(overview.size) <= 901


def test_what_cannot_be_drawn_is_named():
    with pytest.raises(ValueError, match="cells is 0"):
        SlideHeatmaps(cells=0)
