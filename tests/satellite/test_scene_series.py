"""Places over time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scene_files import tile_table, write_scene

from data_modules import Satellite, SpatialSplit, Tiling
from data_modules.scenes.series import SeriesSet, pooled, series_of
from domainvl.data.loading import Loading
from domainvl.data.preset import Preset

DATES = ("2024-09-30", "2024-03-01", "2024-06-15")


@pytest.fixture
def data(tmp_path):
    rows, dates = [], []
    for number, date in enumerate(DATES):
        values = np.full((4, 64, 64), 600 * (number + 1), np.uint16)
        if number == 2:
            values[:, :32, :32] = 0
        write_scene(tmp_path / f"{date}.tif", values)
        for tile in range(4):
            if number < 2 or tile < 3:
                rows.append((f"{date}.tif", 32 * (tile % 2), 32 * (tile // 2), 32, "land"))
                dates.append(date)
    tile_table(tmp_path, rows, {"date": dates})
    return Satellite(
        str(tmp_path),
        sensor="sentinel2-10m",
        tiling=Tiling(size=32),
        split=SpatialSplit(method="random", fractions=(0, 0, 1)),
        preset=Preset("toy", 32),
        loading=Loading(workers=0),
    )


def test_a_place_is_a_stack_of_dates_with_a_mask(data):
    records = data.manifest.records
    series = series_of(records, data.plan)
    assert [len(one.rows) for one in series] == [3, 3, 3, 2]
    assert [str(day) for day in series[0].days] == sorted(DATES)
    items = SeriesSet(series, records, data.manifest.root, data.decoder, 3)
    first = next(items[n] for n in range(4) if records[series[n].rows[0]].part[:2] == (0, 0))
    # March has 1200, June was not seen here, September has 600 of 3000.
    assert first["mask"].tolist() == [True, False, True]
    assert first["image"].float().mean(dim=(1, 2, 3)).tolist() == [102.0, 0.0, 51.0]
    assert first["day"][2] - first["day"][0] == 213
    last = next(items[n] for n in range(4) if records[series[n].rows[0]].part[:2] == (32, 32))
    assert last["mask"].tolist() == [True, True, False]
    assert SeriesSet(series, records, data.manifest.root, data.decoder, 1)[0]["image"].shape == (1, 3, 32, 32)


def test_a_tile_without_a_date_is_named(data):
    records = [replace(record, view="last summer") for record in data.manifest.records]
    with pytest.raises(ValueError, match="row 6 has no date like 2024-07-31"):
        series_of(records, data.plan)


def test_what_is_masked_does_not_count():
    features = torch.randn(4, 5, 7)
    mask = torch.tensor([[1, 1, 0, 0, 1]] * 3 + [[0] * 5], dtype=torch.bool)
    found = pooled(features, mask)
    changed = torch.where(mask[..., None], features, torch.nan)
    assert torch.equal(found, pooled(changed, mask))
    wanted = torch.nn.functional.normalize(
        torch.nn.functional.normalize(features[:3, [0, 1, 4]], dim=-1).sum(1), dim=-1
    )
    torch.testing.assert_close(found[:3], wanted)
    assert torch.equal(found[3], torch.zeros(7))
