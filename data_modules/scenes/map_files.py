"""What a map is written as: cloud-optimised GeoTIFFs, regions as GeoJSON, and a picture to look at.

Every file is written under another name and renamed, so what is there is whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from data_modules.scenes.decoder import Look
from data_modules.scenes.files import Header, gdal, read_window

NOTHING = 255
"""Value of the class map where nothing was scored."""

_BLOCK = 256
_LONGEST = 1200
"""Pixels of the longer side of the picture."""

Strips = Callable[[], Iterable[tuple[int, np.ndarray]]]
"""Gives the map in strips of rows: the first row, and `[C, rows, W]`."""


@contextmanager
def draft(path: Path) -> Iterator[Path]:
    """A name to write under, which becomes `path` when all went well."""
    name = path.with_name(f".{path.name}.tmp")
    yield name
    os.replace(name, path)


def map_transform(header: Header, cell: int) -> Any:
    """The affine map of cells."""
    from rasterio import Affine

    return Affine(*header.transform) @ Affine.scale(cell, cell)


def write_rasters(
    folder: Path, header: Header, cell: int, shape: tuple[int, int], classes: Sequence[str], strips: Strips
) -> None:
    """`scores.tif`, a band per class, and `classes.tif`, both with the scene's coordinate system and overviews.

    Args:
        folder: Where to.
        header: Of the scene.
        cell: Pixels of the scene along the side of a cell.
        shape: Rows and columns of the map.
        classes: Names.
        strips: The scores.
    """
    import rasterio
    from rasterio.shutil import copy
    from rasterio.windows import Window

    common = {
        "driver": "GTiff",
        "height": shape[0],
        "width": shape[1],
        "crs": header.crs,
        "transform": map_transform(header, cell),
        "tiled": True,
        "blockxsize": _BLOCK,
        "blockysize": _BLOCK,
        "BIGTIFF": "IF_SAFER",
    }
    plain = {name: folder / f".{name}.plain.tif" for name in ("scores", "classes")}
    with (
        gdal(),
        rasterio.open(plain["scores"], "w", count=len(classes), dtype="float32", nodata=np.nan, **common) as scores,
        rasterio.open(plain["classes"], "w", count=1, dtype="uint8", nodata=NOTHING, **common) as chosen,
    ):
        for number, name in enumerate(classes, 1):
            scores.set_band_description(number, name)
        chosen.update_tags(**{f"class_{number}": name for number, name in enumerate(classes)})
        chosen.write_colormap(1, {number: (*colour, 255) for number, colour in enumerate(palette(len(classes)))})
        for top, strip in strips():
            window = Window(0, top, shape[1], strip.shape[1])
            scores.write(strip, window=window)
            empty = np.isnan(strip[0])
            best = np.where(empty, NOTHING, np.nan_to_num(strip).argmax(axis=0)).astype(np.uint8)
            chosen.write(best, 1, window=window)
    for name, resampling, predictor in (("scores", "AVERAGE", "FLOATING_POINT"), ("classes", "MODE", "NO")):
        with draft(folder / f"{name}.tif") as target, gdal():
            copy(
                plain[name],
                target,
                driver="COG",
                BLOCKSIZE=_BLOCK,
                COMPRESS="DEFLATE",
                PREDICTOR=predictor,
                OVERVIEW_RESAMPLING=resampling,
                BIGTIFF="IF_SAFER",
            )
        plain[name].unlink()


def write_regions(folder: Path, classes: Sequence[str], threshold: float) -> int:
    """`regions.geojson`: where the best class scores `threshold` or more, as polygons in longitude and latitude.

    Returns:
        Number of regions.
    """
    import rasterio
    from rasterio.features import shapes
    from rasterio.warp import transform_geom

    with gdal(), rasterio.open(folder / "scores.tif") as scores, rasterio.open(folder / "classes.tif") as chosen:
        profile = {"driver": "GTiff", "height": chosen.height, "width": chosen.width, "count": 1, "dtype": "uint8"}
        place = {"crs": chosen.crs, "transform": chosen.transform}
        sure = folder / ".regions.plain.tif"
        with rasterio.open(sure, "w", **profile, **place) as dataset:
            for window in _rows(chosen.height, chosen.width):
                best = np.nan_to_num(scores.read(window=window)).max(axis=0)
                found = np.where(best >= threshold, chosen.read(1, window=window).astype(np.int16) + 1, 0)
                dataset.write(np.where(found > NOTHING, 0, found).astype(np.uint8), 1, window=window)
        count = 0
        with rasterio.open(sure) as dataset, draft(folder / "regions.geojson") as target, target.open("w") as file:
            file.write('{"type": "FeatureCollection", "features": [')
            for shape, value in shapes(rasterio.band(dataset, 1), connectivity=4, transform=dataset.transform):
                if value == 0:
                    continue
                about: dict[str, Any] = {"class": classes[int(value) - 1]}
                if dataset.crs.is_projected:
                    factor = dataset.crs.linear_units_factor[1] ** 2
                    about["square_metres"] = round(_area(shape["coordinates"]) * factor, 1)
                geometry = _wound(transform_geom(dataset.crs, "EPSG:4326", shape, precision=7))
                feature = {"type": "Feature", "properties": about, "geometry": geometry}
                file.write(("," if count else "") + "\n" + json.dumps(feature))
                count += 1
            file.write("\n]}\n")
        sure.unlink()
    return count


def write_picture(folder: Path, scene: Path, header: Header, look: Look, classes: Sequence[str]) -> None:
    """`quicklook.png`: the scene beside the class map."""
    import rasterio
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    factor = max(1, -(-max(header.height, header.width) // _LONGEST))
    size = (-(-header.height // factor), -(-header.width // factor))
    box = (0, 0, header.width, header.height)
    values, seen = read_window(scene, look.numbers(header), box, size, look.nodata)
    image = np.where(seen, look.ranges.eight_bit(values), 255).transpose(1, 2, 0)
    with gdal(), rasterio.open(folder / "classes.tif") as chosen:
        step = max(1, -(-max(chosen.height, chosen.width) // _LONGEST))
        numbers = chosen.read(1, out_shape=(-(-chosen.height // step), -(-chosen.width // step)))
    colours = np.full((256, 3), 255, np.uint8)
    colours[: len(classes)] = palette(len(classes))
    tall = size[0] / size[1]
    figure = Figure(figsize=(12, max(2.5, 6 * tall) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, picture, title in zip(
        figure.subplots(1, 2), (image, colours[numbers]), ("scene", "best class"), strict=True
    ):
        axes.imshow(picture, interpolation="nearest", extent=(0, header.width, header.height, 0))
        axes.set_title(title)
        axes.set_axis_off()
    there = [number for number in range(len(classes)) if (numbers == number).any()]
    handles = [Patch(color=colours[number] / 255.0, label=classes[number]) for number in there]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False)
    with draft(folder / "quicklook.png") as target:
        figure.savefig(target, format="png", dpi=110)


def palette(count: int) -> np.ndarray:
    """Colours that differ, uint8 `[count, 3]`."""
    from matplotlib import colormaps

    table = colormaps["tab20"] if count > 10 else colormaps["tab10"]
    return (np.array([table(number % table.N)[:3] for number in range(count)]) * 255).round().astype(np.uint8)


def _rows(height: int, width: int) -> Iterator[Any]:
    from rasterio.windows import Window

    for top in range(0, height, _BLOCK):
        yield Window(0, top, width, min(_BLOCK, height - top))


def _area(rings: Sequence[Sequence[Sequence[float]]]) -> float:
    """Area of a polygon without its holes, in squared units of its coordinates."""
    first, *holes = (abs(_signed(ring)) for ring in rings)
    return first - sum(holes)


def _signed(ring: Sequence[Sequence[float]]) -> float:
    x, y = np.array(ring, dtype=np.float64).T
    x, y = x - x[0], y - y[0]
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def _wound(geometry: dict[str, Any]) -> dict[str, Any]:
    """The polygon with its outer ring counter-clockwise and its holes clockwise, as GeoJSON wants it."""
    rings = [
        ring if (_signed(ring) > 0) == (number == 0) else ring[::-1]
        for number, ring in enumerate(geometry["coordinates"])
    ]
    return {"type": "Polygon", "coordinates": rings}
