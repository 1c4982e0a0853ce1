"""Small slides as real files: tissue on glass, in every packing, whole and broken."""

import csv

import numpy as np
from PIL import Image

from domainvl.samples.slides.pyramid import save_pyramid


def tissue(height=1100, width=1300, seed=0, share=0.7, cell=24):
    """Smooth colours on the left, glass on the right, `[H, W, 3]`."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 230, (height // cell + 2, width // cell + 2, 3), dtype=np.uint8)
    pixels = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    pixels = np.clip(pixels + rng.integers(-12, 13, (height, width, 1)), 0, 255).astype(np.uint8)
    pixels[:, int(width * share) :] = 244
    return pixels


def glass(height=600, width=600):
    return np.full((height, width, 3), 244, np.uint8)


def save(path, pixels=None, mpp=0.5, **options):
    save_pyramid(path, tissue() if pixels is None else pixels, mpp, **options)
    return path


def broken_tile(path, level=0, number=0):
    """Overwrite a tile, header and all, so that no decoder takes it."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page = [page for page in tiff.pages if page.is_tiled][level]
        offset, count = page.dataoffsets[number], page.databytecounts[number]
    raw = bytearray(path.read_bytes())
    raw[offset : offset + count] = bytes(count)
    path.write_bytes(raw)
    return path


def retiled(path, source, number, damage):
    """The first level of a slide with one packed tile changed, and the byte count that belongs to it."""
    import tifffile

    with tifffile.TiffFile(source) as tiff:
        page = tiff.pages[0]
        raw = source.read_bytes()
        tiles = [raw[at : at + count] for at, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
        tiles[number] = damage(tiles[number])
        with tifffile.TiffWriter(path) as out:
            out.write(
                iter(tiles),
                shape=page.shape,
                dtype=page.dtype,
                tile=page.tile,
                photometric=page.photometric,
                compression=page.compression,
                subsampling=(2, 2) if page.photometric == 6 else None,
                resolution=(20000, 20000),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    return path


def table(root, rows, columns=("slide", "patient", "split", "label")):
    with (root / "slides.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return root


def data_set(root, count=6, classes=("tumor", "necrosis"), size=(500, 520)):
    """One small slide per patient; three quarters for training."""
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        name = f"s{number}.tif"
        save(root / name, tissue(*size, seed=number))
        split = ("train", "train", "train", "test")[number // len(classes) % 4]
        rows.append((name, f"p{number}", split, classes[number % len(classes)]))
    return table(root, rows)
