"""Where tissue is, which tiles are planned, and that the plan is kept."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from slide_phantoms import broken_tile, glass, save, tissue

from data_modules.readers.open_slide import open_slide
from data_modules.readers.slide_tiles import TilePlan
from data_modules.readers.tissue import Tissue, otsu, saturation
from domainvl.data.feature_file import Places, read_places


def test_otsu_is_the_best_split():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(20, 6, 3000), rng.normal(120, 20, 1000)]).clip(0, 255).astype(np.uint8)

    def inner(threshold):
        parts = (values[values <= threshold], values[values > threshold])
        return sum(part.var() * len(part) for part in parts if len(part))

    assert inner(otsu(values)) == pytest.approx(min(inner(threshold) for threshold in range(255)))
    assert otsu(np.full(50, 7, np.uint8)) == 0


def test_tissue_is_colour_and_not_glass_or_ink():
    picture = glass(90, 40)
    picture[:30] = (200, 120, 170)
    picture[30:60] = (12, 12, 14)
    picture[60:] += np.random.default_rng(0).integers(0, 3, (30, 40, 3), dtype=np.uint8)
    mask = Tissue().mask(picture)
    assert mask[:30].all()
    # Black ink has a little colour in its little light; glass has none at all.
    assert not mask[60:].any()
    assert Tissue().mask(picture[:30]).all()
    assert not Tissue().mask(glass()).any()
    assert saturation(np.array([[[255, 0, 0], [128, 128, 128], [0, 0, 0], [200, 100, 150]]], np.uint8)).tolist() == [
        [255, 0, 0, 127]
    ]


@pytest.mark.parametrize(
    ("mpp", "plan"),
    [
        (0.5, TilePlan(mpp=0.5, size=128)),
        (0.4657, TilePlan(mpp=1.0, size=96)),
        (0.2738, TilePlan(mpp=0.5, size=64, overlap=16)),
        (0.5, TilePlan(mpp=1.0, size=96, share=0.9)),
    ],
)
def test_tiles_cover_the_tissue_and_nothing_else(mpp, plan, tmp_path):
    pixels = tissue(700, 1000, share=0.6)
    slide = open_slide(save(tmp_path / "a.tif", pixels, mpp=mpp))
    places = plan.places(slide)
    assert places.dtype == np.int64
    side, step = plan.size * plan.mpp / mpp, (plan.size - plan.overlap) * plan.mpp / mpp
    grid = {(round(x * step), round(y * step)) for x in range(100) for y in range(100)}
    assert {tuple(place) for place in places.tolist()} <= grid
    assert places.tolist() == sorted(places.tolist(), key=lambda place: (place[1], place[0]))
    assert len({tuple(place) for place in places.tolist()}) == len(places)
    found = {tuple(place) for place in places.tolist()}
    slack = 2 * Tissue().mpp / (plan.mpp * plan.size)
    for x, y in grid:
        if x < 1000 and y < 700:
            inside = max(0, min(600, x + side) - x) / side * (max(0, min(700, y + side) - y) / side)
            if inside > plan.share + slack:
                assert (x, y) in found
            elif inside < plan.share - slack:
                assert (x, y) not in found


def test_a_slide_without_tissue_has_no_tiles(tmp_path):
    assert TilePlan().places(open_slide(save(tmp_path / "a.tif", glass()))).shape == (0, 2)


@pytest.mark.parametrize(("levels", "level"), [(2, 1), (1, 0)], ids=["a finer level is whole", "nothing is"])
def test_damage_hides_no_tissue(levels, level, tmp_path):
    plan, pixels = TilePlan(mpp=0.5, size=128), tissue(1100, 1300, share=0.5)
    whole = open_slide(save(tmp_path / "a.tif", pixels, levels=levels))
    broken = open_slide(broken_tile(save(tmp_path / "b.tif", pixels, levels=levels), level=level))
    expected, found = ({tuple(place) for place in plan.places(slide).tolist()} for slide in (whole, broken))
    assert expected == found
    lost = broken.surveyed(8.0)[1]
    # The damaged tile of the single level is 256 pixels of half a micron; blocks of eight pixels are tried.
    assert lost.sum() == (0 if levels == 2 else 16 * 16)


def test_a_plan_is_kept_in_tridents_layout(tmp_path, monkeypatch):
    slide, plan, file = open_slide(save(tmp_path / "a.tif", mpp=0.25)), TilePlan(mpp=0.5, size=128), tmp_path / "t.h5"
    first = plan.planned(slide, file, "v1")
    with h5py.File(file) as written:
        attributes = dict(written["coords"].attrs)
        assert attributes["patch_size"] == 128
        assert attributes["patch_size_level0"] == 256
        assert (attributes["level0_magnification"], attributes["target_magnification"]) == (40, 20)
        assert (attributes["level0_width"], attributes["level0_height"]) == slide.size
        assert written["coords"].dtype == np.int64
    monkeypatch.setattr(TilePlan, "places", lambda self, slide: np.full((1, 2), 7))
    again = plan.planned(slide, file, "v1")
    assert np.array_equal(again.at, first.at)
    assert again.geometry == first.geometry == plan.geometry(slide)
    assert plan.planned(slide, file, "v2").at.tolist() == [[7, 7]]
    assert isinstance(read_places(file, plan.digest, "v2"), Places)
    assert read_places(file, replace(plan, share=0.5).digest, "v2") is None


def test_everything_that_changes_a_tile_is_in_the_hash():
    plan = TilePlan()
    others = [
        replace(plan, mpp=1.0),
        replace(plan, size=224),
        replace(plan, overlap=8),
        replace(plan, share=0.5),
        replace(plan, tissue=Tissue(least=20)),
        replace(plan, exact=True),
    ]
    assert len({one.digest for one in (plan, *others)}) == 7


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mpp": 0}, "both must be positive"),
        ({"size": 0}, "both must be positive"),
        ({"overlap": 256}, "overlap is 256"),
        ({"share": 0}, "share is 0"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        TilePlan(**change)
    with pytest.raises(ValueError, match="least 50"):
        Tissue(least=50, most=40)
