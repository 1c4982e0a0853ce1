"""Small rasters on disk for the tests of scenes."""

from pathlib import Path

import numpy as np

UTM32, UTM33 = "EPSG:32632", "EPSG:32633"


def write_scene(
    path: Path,
    values: np.ndarray,
    crs: str | None = UTM32,
    *,
    left: float = 500_000.0,
    top: float = 5_300_000.0,
    ground: float = 10.0,
    nodata: float | None = 0,
    names: tuple[str, ...] | None = None,
    block: int = 64,
    overviews: tuple[int, ...] = (),
) -> Path:
    """Write `[C, H, W]`."""
    import rasterio
    from rasterio.transform import from_origin

    path.parent.mkdir(parents=True, exist_ok=True)
    place = {} if crs is None else {"crs": crs, "transform": from_origin(left, top, ground, ground)}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=values.shape[2],
        height=values.shape[1],
        count=len(values),
        dtype=values.dtype.name,
        nodata=nodata,
        tiled=True,
        blockxsize=block,
        blockysize=block,
        compress="deflate",
        **place,
    ) as dataset:
        dataset.write(values)
        for number, name in enumerate(names or (), 1):
            dataset.set_band_description(number, name)
        if overviews:
            dataset.build_overviews(list(overviews))
    return path


def ramp(bands: int, height: int, width: int, dtype: type = np.uint16) -> np.ndarray:
    """Every pixel of every band has a value of its own, as far as the type goes; none is 0."""
    return (1 + np.arange(bands * height * width).reshape(bands, height, width) % 60_000).astype(dtype)


def tile_table(folder: Path, rows: list[tuple[str, int, int, int, str]], extra: dict[str, list[str]] | None = None):
    """tiles.csv of (image, left, top, side, class) and further columns."""
    extra = extra or {}
    lines = [",".join(["image", "left", "top", "width", "height", "class", *extra])]
    for number, (image, left, top, side, name) in enumerate(rows):
        cells = [image, left, top, side, side, name, *(column[number] for column in extra.values())]
        lines.append(",".join(map(str, cells)))
    (folder / "tiles.csv").write_text("\n".join(lines) + "\n")
