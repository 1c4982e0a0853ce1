"""Tiles of a plan are the windows of the file, however they are read."""

import numpy as np
import pytest
import torch
from scene_files import ramp, write_scene

from data_modules.scenes.blocks import BlockCache
from data_modules.scenes.decoder import Look, SceneDecoder, block_order, blocks_around
from data_modules.scenes.files import CACHE, gdal, read_window
from data_modules.scenes.order import BlockSampler
from data_modules.scenes.plan import ScenePlan, Tiling, grid_plan, read_headers
from data_modules.scenes.sensors import Sensor
from data_modules.scenes.stretch import Ranges
from domainvl.data.manifest import Record
from domainvl.data.preset import Preset

SENSOR = Sensor(
    "toy", ["a", "b", "c"], ["c", "b", "a"], dict.fromkeys("abc", 0.0), dict.fromkeys("abc", 60_000.0), nodata=0
)
RANGES = Ranges((0.0,) * 3, (60_000.0,) * 3)


def look(least=0.5):
    return Look(SENSOR, ("c", "b", "a"), RANGES, 0, least)


def records(plan):
    return [Record(str(row), plan.scenes[plan.scene[row]], str(row), part=plan.box(row)) for row in range(len(plan))]


@pytest.mark.parametrize(
    "tiling",
    [
        Tiling(size=32),
        Tiling(size=32, overlap=16),
        Tiling(size=48, jitter=9),
        Tiling(size=32, block=1),
        Tiling(size=400),
    ],
    ids=str,
)
def test_every_tile_is_its_window(tmp_path, tiling):
    values = ramp(3, 200, 231)
    write_scene(tmp_path / "s.tif", values)
    headers, _ = read_headers(tmp_path, ["s.tif"])
    plan = grid_plan(headers, tiling, seed=3)
    held = records(plan)
    alone = SceneDecoder(Preset("p", tiling.size), look(0))
    together = SceneDecoder(Preset("p", tiling.size), look(0), 1, blocks_around(held, tiling))
    padded = np.zeros((3, 400, 400), np.uint16)
    padded[:, :200, :231] = values
    seen = np.zeros((200, 231), bool)
    for record in held:
        left, top, width, height = record.part
        wanted = np.rint(padded[::-1, top : top + height, left : left + width] / 60_000 * 255).astype(np.uint8)
        pixels, mask = alone.tile(record, tmp_path)
        assert np.abs(pixels.astype(int) - wanted).max() <= 1
        assert (mask is None) == (tiling.size < 200)
        assert torch.equal(alone.read(record, tmp_path), together.read(record, tmp_path))
        seen[top : top + height, left : left + width] = True
    assert seen.all() or tiling.jitter


def test_a_block_is_read_once(tmp_path, monkeypatch):
    write_scene(tmp_path / "s.tif", ramp(3, 256, 256))
    headers, _ = read_headers(tmp_path, ["s.tif"])
    tiling = Tiling(size=32)
    held = records(grid_plan(headers, tiling))
    decoder = SceneDecoder(Preset("p", 32), look(), 1, blocks_around(held, tiling))
    asked = []

    def counted(path, bands, box, *rest):
        asked.append(box)
        return read_window(path, bands, box, *rest)

    monkeypatch.setattr("data_modules.scenes.decoder.read_window", counted)
    for record in held:
        decoder.read(record, tmp_path)
    assert len(held) == 64
    assert sorted(asked) == [(x, y, 128, 128) for x in (0, 128) for y in (0, 128)]
    few = blocks_around([held[0], held[-1]], tiling)
    assert {box[2:] for box in few.values()} == {(32, 32)}


def test_a_plan_survives_the_disk(tmp_path):
    write_scene(tmp_path / "s.tif", ramp(3, 100, 100), overviews=(2,))
    headers, _ = read_headers(tmp_path, ["s.tif"])
    plan = grid_plan(headers, Tiling(size=32, overlap=8))
    plan.save(tmp_path / "plan.npz")
    again = ScenePlan.load(tmp_path / "plan.npz")
    assert again.digest == plan.digest
    assert again.headers == plan.headers
    assert np.array_equal(again.places.lon, plan.places.lon)


def test_coarse_tiles_come_from_overviews(tmp_path):
    values = np.repeat(np.repeat(ramp(3, 64, 64), 4, 1), 4, 2)
    write_scene(tmp_path / "s.tif", values, overviews=(4,))
    fine, seen = read_window(tmp_path / "s.tif", [1, 2, 3], (0, 0, 256, 256), (64, 64), None)
    assert np.array_equal(fine, values[:, ::4, ::4])
    assert seen.all()
    write_scene(tmp_path / "bare.tif", values)
    bare, _ = read_headers(tmp_path, ["bare.tif"])
    with pytest.warns(UserWarning, match="no overviews"):
        grid_plan(bare, Tiling(size=64, reduce=4))


@pytest.mark.parametrize(
    ("dtype", "declared", "given", "hole"),
    [
        (np.uint16, 0, None, 0),
        (np.uint16, None, 0, 0),
        (np.float32, None, None, np.nan),
        (np.float32, -9999, None, -9999),
    ],
)
def test_what_was_not_seen_is_masked_and_does_not_bleed(tmp_path, dtype, declared, given, hole):
    values = np.full((3, 64, 64), 30_000, dtype)
    values[:, :, :16] = hole
    write_scene(tmp_path / "s.tif", values, nodata=declared)
    part = Record("s", "s.tif", "p", part=(0, 0, 64, 64))
    one = Look(SENSOR, ("c", "b", "a"), RANGES, given, 0.5)
    decoder = SceneDecoder(Preset("p", 64, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0)), one)
    _, mask = decoder.tile(part, tmp_path)
    assert np.array_equal(mask, np.broadcast_to(np.arange(64) >= 16, (64, 64)))
    # The fill is the mean, which normalises to (nearly) zero, and 30,000 of 60,000 is the mean here.
    finished = decoder.finish(decoder.read(part, tmp_path)[None])
    assert finished.abs().max() < 0.01


def test_gdal_keeps_as_many_bytes_as_are_asked_for():
    from rasterio._env import get_gdal_config

    with gdal():
        assert get_gdal_config("GDAL_CACHEMAX") == CACHE


def test_a_block_that_failed_is_tried_again():
    cache = BlockCache()

    def broken():
        raise OSError("gone")

    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            cache.get("key", broken)


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_training_order_is_complete_and_block_by_block(tmp_path, world, workers):
    write_scene(tmp_path / "s.tif", ramp(3, 512, 512))
    headers, _ = read_headers(tmp_path, ["s.tif"])
    tiling = Tiling(size=32)
    held = records(grid_plan(headers, tiling))
    blocks = block_order(held, tiling)
    assert [len(block) for block in blocks] == [16] * 16
    mix, batch = 2, 8
    seen = []
    for rank in range(world):
        sampler = BlockSampler(held, blocks, 5, rank, world, mix=mix, batch_size=batch, workers=workers)
        order = list(sampler)
        assert len(order) == len(sampler)
        seen += order
        block = {tile: number for number, one in enumerate(blocks) for tile in one}
        # What one worker gets hangs together: few blocks at a time, each in one stretch.
        streams = (
            [order[start::1] for start in [0]]
            if workers < 2
            else [
                [
                    tile
                    for start in range(worker * batch, len(order) // (2 * batch) * 2 * batch, 2 * batch)
                    for tile in order[start : start + batch]
                ]
                for worker in range(2)
            ]
        )
        for stream in streams:
            places = {number: [i for i, tile in enumerate(stream) if block[tile] == number] for number in range(16)}
            assert max(held[-1] - held[0] for held in places.values() if held) < 2 * mix * 16
    assert set(seen) == set(range(256))
    first = list(BlockSampler(held, blocks, 5, mix=mix))
    later = BlockSampler(held, blocks, 5, mix=mix)
    later.set_epoch(1)
    assert sorted(first) == sorted(later) == list(range(256))
    assert list(later) != first
