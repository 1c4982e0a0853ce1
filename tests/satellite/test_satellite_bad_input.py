"""Bad scenes get a named error or a counted reject, never a picture that looks like one."""

import warnings

import numpy as np
import pytest
from scene_files import ramp, tile_table, write_scene

from data_modules import FixedRange, Percentiles, Satellite, SpatialSplit, TileTable, Tiling, ZScore
from data_modules.readers.rgb import read_rgb
from data_modules.scenes.sensors import SENSORS, Sensor
from data_modules.scenes.stretch import Ranges
from domainvl.data.loading import Loading
from domainvl.data.preset import Preset
from domainvl.data.rejects import TooManyRejects, UnreadableImage

S2 = SENSORS["sentinel2-l1c"].bands


def rows(scene="s.tif"):
    return [(scene, 32 * (n % 12), 32 * (n // 12), 32, ("water", "wood")[n % 2]) for n in range(144)]


def module(root, **arguments):
    settings = {
        "sensor": "sentinel2-10m",
        "tiling": Tiling(size=32),
        "split": SpatialSplit(method="random", fractions=(0.5, 0.0, 0.5)),
        "preset": Preset("toy", 32),
        "loading": Loading(workers=0, reject_share=0.2),
    }
    found = Satellite(str(root), **{**settings, **arguments})
    found.rejects.path = root / "rejects.csv"
    return found


def no_crs(root):
    write_scene(root / "s.tif", ramp(4, 384, 384), None)


def wrong_bands(root):
    write_scene(root / "s.tif", ramp(5, 384, 384))


def empty(root):
    write_scene(root / "s.tif", np.zeros((4, 384, 384), np.uint16))


def truncated(root):
    path = write_scene(root / "s.tif", np.random.default_rng(0).integers(1, 9999, (4, 384, 384)).astype(np.uint16))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def no_raster(root):
    (root / "s.tif").write_bytes(b"II*\0 this is no TIFF")


def mixed(root):
    for name, dtype in (("one", "uint16"), ("two", "float32")):
        write_scene(root / f"{name}.tif", ramp(1, 384, 384, dtype), nodata=None)
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{number}"><SimpleSource><SourceFilename relativeToVRT="1">{name}.tif'
        "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for number, (name, kind) in enumerate((("one", "UInt16"), ("two", "Float32")), 1)
    )
    (root / "s.tif").write_text(
        '<VRTDataset rasterXSize="384" rasterYSize="384"><SRS>EPSG:32632</SRS>'
        f"<GeoTransform>500000, 10, 0, 5300000, 0, -10</GeoTransform>{bands}</VRTDataset>"
    )


def outside(root):
    write_scene(root / "s.tif", ramp(4, 100, 100))


WHOLE_SCENE = [
    (no_crs, "no coordinate system"),
    (wrong_bands, "it has 5 bands without the names B04, B03, B02, sensor sentinel2-10m has 4"),
    (empty, "the sensor saw nothing of this tile"),
    (truncated, "cut short"),
    (no_raster, "no raster that GDAL can open"),
    (mixed, "different types, float32 and uint16"),
    (outside, "the window lies outside the raster of 100 x 100"),
]


@pytest.mark.parametrize(("spoil", "reason"), WHOLE_SCENE, ids=[spoil.__name__ for spoil, _ in WHOLE_SCENE])
def test_a_bad_scene_stops_the_run_and_its_tiles_are_listed(tmp_path, spoil, reason):
    spoil(tmp_path)
    tile_table(tmp_path, rows())
    data = module(tmp_path)
    with pytest.raises(TooManyRejects, match=reason):
        data.setup("test")
    listed = (tmp_path / "rejects.csv").read_text()
    assert listed.count(reason) > 20


def test_tiles_that_were_not_seen_are_counted_and_the_others_used(tmp_path):
    values = ramp(4, 384, 384)
    values[:, :40] = 0
    write_scene(tmp_path / "s.tif", values)
    tile_table(tmp_path, rows())
    data = module(tmp_path)
    data.setup("test")
    reasons = sorted({reject.reason for reject in data.rejects})
    assert reasons == ["the sensor saw nothing of this tile (all of it is nodata)"]
    assert 3 <= len(data.rejects) <= 12
    # The second row of tiles was seen to three quarters, which is enough.
    assert any(record.part[1] == 32 for record in data.sets["test"].records)
    strict = module(tmp_path, tiling=Tiling(size=32, least=0.9))
    strict.setup("test")
    assert len(strict.rejects) > len(data.rejects)
    assert any("only 75% of the tile was seen, less than 90%" in reject.reason for reject in strict.rejects)


SETTINGS = [
    ({"sensor": "sentinel"}, "no sensor is called 'sentinel'"),
    ({"sensor": None}, "tiles of scenes need data.sensor"),
    ({"sensor": None, "bands": ["red", "green", "blue"]}, "about the bands of a sensor"),
    ({"bands": ["red", "green", "B99"]}, "no band is called 'B99'"),
    ({"bands": ["red"]}, "takes three bands, got 1"),
    ({"bands": ["red", "swir", "nir"]}, "no band is called 'swir'"),
    ({"stretch": FixedRange({"B02": 0}, {"B02": 1})}, "has no value for band 'B04'"),
    ({"stretch": FixedRange(dict.fromkeys(S2, 5), dict.fromkeys(S2, 5))}, "is not below high"),
    ({"mix": 0}, "mix is 0"),
]


@pytest.mark.parametrize(("arguments", "says"), SETTINGS, ids=[says for _, says in SETTINGS])
def test_settings_that_cannot_be_are_refused(tmp_path, arguments, says):
    write_scene(tmp_path / "s.tif", ramp(4, 384, 384))
    tile_table(tmp_path, rows())
    with pytest.raises(ValueError, match=says):
        module(tmp_path, **arguments).setup("test")


@pytest.mark.parametrize(
    "arguments",
    [{"size": 0}, {"size": 8, "overlap": 8}, {"size": 10, "reduce": 3}, {"least": 1.5}, {"block": 0}],
    ids=str,
)
def test_tilings_that_cannot_be_are_refused(arguments):
    with pytest.raises(ValueError, match=r"Tiling: .*give"):
        Tiling(**arguments)


def test_statistics_of_13_bands_serve_three(tmp_path):
    """By name; a list of 13 numbers and 3 channels is what crashes elsewhere."""
    mean, std = {band: 100.0 * n for n, band in enumerate(S2, 10)}, {band: 10.0 * n for n, band in enumerate(S2, 10)}
    write_scene(tmp_path / "s.tif", ramp(4, 384, 384), names=("B02", "B03", "B04", "B08"))
    tile_table(tmp_path, rows())
    data = module(tmp_path, stretch=ZScore(mean, std, sigmas=2))
    assert data.look().ranges == Ranges((1040.0, 960.0, 880.0), (1560.0, 1440.0, 1320.0))
    data.setup("test")
    assert len(data.sets["test"]) > 50


def test_bands_are_found_by_name_wherever_they_are(tmp_path):
    values = ramp(13, 32, 32)
    shuffled = list(np.random.default_rng(0).permutation(13))
    sensor = SENSORS["sentinel2-l1c"]
    write_scene(tmp_path / "named.tif", values[shuffled], names=tuple(S2[n] for n in shuffled))
    places = sensor.positions(("B8A", "B04", "B02"), 13, [S2[n] for n in shuffled])
    assert [S2[shuffled[place - 1]] for place in places] == ["B8A", "B04", "B02"]
    # Without names the order is the sensor's: EuroSAT's files hold B8A last.
    assert sensor.positions(("B8A",), 13, [None] * 13) == [9]
    assert SENSORS["sentinel2-eurosat"].positions(("B8A",), 13, [None] * 13) == [13]


def test_percentiles_are_measured_once_on_training_tiles(tmp_path):
    values = ramp(4, 384, 384)
    write_scene(tmp_path / "s.tif", values)
    tile_table(tmp_path, rows())
    file = tmp_path / "ranges.json"
    data = module(tmp_path, stretch=Percentiles(str(file), low=1, high=99, tiles=1000))
    low, high = data.look().ranges.low[2], data.look().ranges.high[2]
    train = [record.part for record in data.manifest.records if record.split == "train"]
    pixels = np.concatenate([values[0, top : top + h, left : left + w].ravel() for left, top, w, h in train])
    assert (low, high) == tuple(np.percentile(pixels, [1, 99]))
    file.write_text(file.read_text().replace(str(low), str(low + 7)))
    again = module(tmp_path, stretch=Percentiles(str(file), low=1, high=99))
    assert again.look().ranges.low[2] == low + 7


def test_windows_in_a_table_are_checked(tmp_path):
    write_scene(tmp_path / "s.tif", ramp(4, 384, 384))
    tile_table(
        tmp_path, [*rows(), ("s.tif", -4, 0, 32, "wood"), ("s.tif", "x", 0, 32, "wood"), ("s.tif", 0, 0, 0, "wood")]
    )
    manifest = TileTable().read(tmp_path)
    assert [reject.reason for reject in manifest.rejected] == [
        "'-4, 0, 32, 32' is no window of whole pixels above 0",
        "'x, 0, 32, 32' is no window of whole pixels above 0",
        "'0, 0, 0, 0' is no window of whole pixels above 0",
    ]


def test_pictures_of_16_bits_are_refused(tmp_path):
    from PIL import Image

    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match=r"more than 8 bits.*data\.sensor"):
        read_rgb(tmp_path / "a.png")


def test_a_sensor_of_ones_own_is_checked():
    with pytest.raises(ValueError, match="high has no value for band 'b'"):
        Sensor("mine", ["a", "b", "c"], ["a", "b", "c"], dict.fromkeys("abc", 0.0), {"a": 1.0})
    with pytest.raises(ValueError, match="named twice"):
        Sensor("mine", ["a", "a", "c"], ["a", "c", "c"], dict.fromkeys("ac", 0.0), dict.fromkeys("ac", 1.0))


def test_reading_makes_no_noise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the list of rejects goes where the work is done, without a run
    write_scene(tmp_path / "s.tif", ramp(4, 384, 384), None)
    tile_table(tmp_path, rows())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(TooManyRejects):
            _ = module(tmp_path).manifest
