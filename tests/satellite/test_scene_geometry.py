"""Where tiles lie, and that a split keeps test tiles away from training tiles."""

import numpy as np
import pytest
from scene_files import UTM32, UTM33, ramp, write_scene

from data_modules.scenes.geometry import Footprints, footprints, gaps, grid_cells
from data_modules.scenes.plan import Tiling, grid_plan, read_headers
from data_modules.scenes.split import SpatialSplit, assign

NORTH = (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_300_000.0)


def metres_between(a: np.ndarray, b: np.ndarray) -> float:
    """Edge to edge of two boxes (left, top, width, height) in the pixels of one grid of 10 m."""
    x = max(b[0] - a[0] - a[2], a[0] - b[0] - b[2], 0)
    y = max(b[1] - a[1] - a[3], a[1] - b[1] - b[3], 0)
    return 10 * float(np.hypot(x, y))


def test_gaps_are_never_longer_than_the_distance_on_the_ground():
    rng = np.random.default_rng(0)
    boxes = np.column_stack([rng.integers(0, 3000, (60, 2)), np.full((60, 2), 96)])
    places = footprints(UTM32, NORTH, boxes)
    ours, theirs = np.arange(30), np.arange(30, 60)
    found = gaps(places[ours], places[theirs], 50_000)
    truth = np.array([min(metres_between(boxes[i], boxes[j]) for j in theirs) for i in ours])
    # UTM scales by 0.9996 at the middle, and boxes in degrees are a little larger than tiles.
    assert (found <= truth * 1.001 + 1).all()
    assert (found >= truth * 0.99 - 60).all()


@pytest.mark.parametrize("limit", [0.0, 500.0, 5_000.0])
def test_gaps_beyond_the_limit_are_infinite(limit):
    rng = np.random.default_rng(1)
    places = Footprints(rng.uniform(8, 9, 200), rng.uniform(47, 48, 200), np.full(200, 0.005), np.full(200, 0.004))
    rows = np.arange(100)
    near = gaps(places[rows], places[rows + 100], limit)
    every = gaps(places[rows], places[rows + 100], 1e7)
    assert np.array_equal(near, np.where(every <= limit, every, np.inf))


def test_the_date_line_is_no_gap():
    two = Footprints(np.array([179.995, -179.995]), np.zeros(2), np.full(2, 0.004), np.full(2, 0.004))
    assert gaps(two[np.array([0])], two[np.array([1])], 1e5)[0] == pytest.approx(0.002 * 111_195, rel=0.01)
    ring = (0.01, 0.0, 179.995, 0.0, -0.01, 0.005)
    across = footprints("EPSG:4326", ring, np.array([[0, 0, 1, 1]]))
    assert across.east[0] == pytest.approx(0.005)


def test_a_place_is_in_one_cell_whichever_zone_shows_it():
    from rasterio.warp import transform

    x, y = transform("EPSG:4326", UTM33, [11.9], [47.9])
    there = footprints(UTM33, (10.0, 0.0, x[0], 0.0, -10.0, y[0]), np.array([[-48, -48, 96, 96]]))
    x, y = transform("EPSG:4326", UTM32, [11.9], [47.9])
    here = footprints(UTM32, (10.0, 0.0, x[0], 0.0, -10.0, y[0]), np.array([[-48, -48, 96, 96]]))
    assert there.lon[0] == pytest.approx(here.lon[0], abs=1e-4)
    cells = [grid_cells(one.lon, one.lat, 3000.0).tolist() for one in (here, there)]
    assert cells[0] == cells[1]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Two dates of one place, a scene of the other zone that overlaps it, and one far away."""
    folder = tmp_path_factory.mktemp("scenes")
    blank = ramp(1, 1200, 1200)
    for name in ("a_1", "a_2"):
        write_scene(folder / f"{name}.tif", blank)
    write_scene(folder / "b.tif", blank, left=506_000.0)
    write_scene(folder / "c.tif", blank, UTM33, left=300_000.0, top=5_400_000.0)
    headers, rejected = read_headers(folder, ["a_1.tif", "a_2.tif", "b.tif", "c.tif"])
    assert rejected == []
    return grid_plan(headers, Tiling(size=60))


@pytest.mark.parametrize("buffer", [None, 0.0, 300.0, 2_000.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_test_tile_lies_within_the_buffer_of_a_training_tile(plan, buffer, seed):
    rule = SpatialSplit(seed=seed, fractions=(0.6, 0.2, 0.2), cell=3000, buffer=buffer)
    found = assign(rule, plan.places)
    least = 600.0 if buffer is None else buffer
    rows = {
        name: [row for row, split in enumerate(found.split) if split == name] for name in ("train", "validate", "test")
    }
    assert all(rows.values())
    for one, other in (("train", "test"), ("train", "validate"), ("validate", "test")):
        for scene, shift in ((0, 0), (1, 0), (2, 600)):
            held = plan.boxes[[row for row in rows[one] if plan.scene[row] == scene]] + [shift, 0, 0, 0]
            for row in rows[other]:
                if plan.scene[row] == 3:
                    continue
                theirs = plan.boxes[row] + [600 if plan.scene[row] == 2 else 0, 0, 0, 0]
                x = np.maximum(np.abs(held[:, 0] - theirs[0]) - 60, 0)
                y = np.maximum(np.abs(held[:, 1] - theirs[1]) - 60, 0)
                assert not len(held) or 10 * np.hypot(x, y).min() >= 0.999 * least
    assert found.nearest is not None
    assert found.nearest >= 0.99 * least


def test_a_place_keeps_its_split_over_time(plan):
    for method in ("spatial", "random"):
        found = assign(SpatialSplit(method=method, cell=3000, fractions=(0.5, 0.2, 0.3)), plan.places)
        first = {tuple(plan.boxes[row]): found.split[row] for row in np.flatnonzero(plan.scene == 0)}
        second = {tuple(plan.boxes[row]): found.split[row] for row in np.flatnonzero(plan.scene == 1)}
        assert first == second
        assert len(set(first.values())) >= 3


def test_random_splits_say_that_they_are(plan):
    found = assign(SpatialSplit(method="random"), plan.places)
    assert found.nearest == 0.0
    assert None not in found.split
    assert "no buffer was kept" in found.summary()
