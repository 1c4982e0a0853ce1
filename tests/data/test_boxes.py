"""Boxes keep to the pixels that they were drawn around, through every preset."""

import numpy as np
import pytest
from PIL import Image

from domainvl.data import Box, preset_box
from domainvl.data.preset import Preset


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ((5, 0, 5, 4), "is no box inside a picture of 10 x 8"),
        ((-1, 0, 5, 4), "no box"),
        ((0, 0, 11, 4), "no box"),
        ((0, 6, 5, 9), "no box"),
        ((0, float("nan"), 5, 4), "no box"),
    ],
)
def test_what_is_no_box_is_refused(box, says):
    with pytest.raises(ValueError, match=says):
        Box("text", *box, 10, 8)


def test_phrases_stay_out_of_reprs():
    assert "effusion" not in repr(Box("effusion", 0, 0, 1, 1, 2, 2))


# Preset, picture (width, height), box, what it becomes.
EXACT = [
    ("squash", {"size": 8, "fit": "squash"}, (16, 4), (2, 1, 8, 3), (1, 2, 4, 6)),
    ("crop wide", {"size": 4, "fit": "crop"}, (12, 4), (3, 1, 7, 3), (0, 1, 3, 3)),
    ("crop tall", {"size": 4, "fit": "crop"}, (4, 12), (1, 4, 3, 6), (1, 0, 3, 2)),
    ("crop cuts off", {"size": 4, "fit": "crop"}, (12, 4), (0, 0, 4, 4), None),
    ("pad wide", {"size": 8, "fit": "pad"}, (8, 4), (1, 1, 5, 3), (1, 3, 5, 5)),
    ("pad tall", {"size": 8, "fit": "pad"}, (2, 8), (0, 1, 2, 3), (3, 1, 5, 3)),
    ("pad odd", {"size": 8, "fit": "pad"}, (8, 5), (0, 0, 8, 5), (0, 1, 8, 6)),
    ("resize, then crop", {"size": 4, "fit": "crop", "resize": 6}, (12, 12), (4, 2, 8, 6), (1, 0, 3, 2)),
    ("half a pixel, even", {"size": 4, "fit": "crop"}, (7, 4), (2, 0, 6, 4), (0, 0, 4, 4)),
    ("half a pixel, down", {"size": 4, "fit": "crop", "half": "down"}, (7, 4), (1, 0, 5, 4), (0, 0, 4, 4)),
]


@pytest.mark.parametrize(
    ("preset", "picture", "box", "expected"), [row[1:] for row in EXACT], ids=[row[0] for row in EXACT]
)
def test_boxes_in_closed_form(preset, picture, box, expected):
    assert preset_box(Box("", *box, *picture), Preset("toy", **preset)) == expected


@pytest.mark.parametrize(
    ("fit", "half"), [("crop", "even"), ("crop", "down"), ("squash", "even"), ("squash", "down"), ("pad", "even")]
)
@pytest.mark.parametrize("picture", [(64, 64), (96, 64), (64, 101), (33, 90), (31, 32), (200, 131)])
@pytest.mark.parametrize("resize", [None, 37])
def test_boxes_lie_where_the_preset_puts_the_pixels(fit, half, picture, resize):
    preset = Preset("toy", 32, fit=fit, half=half, resize=resize, interpolation="nearest")
    width, height = picture
    pixels = np.zeros((height, width), np.uint8)
    box = (width // 3, height // 4, width * 3 // 4, height * 2 // 3)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    seen = preset.pixels(Image.fromarray(pixels))[0].numpy() > 0
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    painted = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    # A pixel is painted when its centre falls into the box, so an edge is off by half a pixel at most.
    assert np.abs(np.subtract(preset_box(Box("", *box, width, height), preset), painted)).max() <= 0.5 + 1e-9
