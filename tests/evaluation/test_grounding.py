import numpy as np
import pytest
import torch.nn.functional as F
from torch import from_numpy

from domainvl.evaluation.grounding import (
    GROUNDING,
    GroundingProtocol,
    Phrases,
    PhraseScore,
    region,
    score_phrase,
    upsample,
)


def noise(shape=(12, 16), seed=0):
    return np.random.default_rng(seed).normal(scale=0.3, size=shape).astype(np.float32)


def by_hand(values, mask, thresholds):
    inside, outside = values[mask].astype(float), values[~mask].astype(float)
    signed = (inside.mean() - outside.mean()) / np.sqrt(inside.var() + outside.var())
    overlap = np.mean([((values > t) & mask).sum() / ((values > t) | mask).sum() for t in thresholds])
    return abs(signed), signed, overlap, float(mask.flat[values.argmax()])


@pytest.mark.parametrize(
    ("boxes", "rows", "columns"),
    [
        ([(2, 3, 6, 9)], slice(3, 9), slice(2, 6)),
        ([(1.6, 2.4, 6.4, 9.4)], slice(2, 9), slice(2, 6)),  # centres at 2.5 .. 5.5 and 2.5 .. 8.5
        ([(-5, -2, 4, 3)], slice(0, 3), slice(0, 4)),
        ([(10, 8, 99, 99), (50, 50, 60, 60)], slice(8, 12), slice(10, 16)),
    ],
    ids=["whole", "fractions", "cut by the crop", "one outside"],
)
def test_scores_equal_the_closed_form(boxes, rows, columns):
    values = noise()
    mask = np.zeros(values.shape, bool)
    mask[rows, columns] = True
    found = score_phrase(values, boxes)
    expected = by_hand(values, mask, (0.1, 0.2, 0.3, 0.4, 0.5))
    assert [getattr(found, name) for name in GROUNDING] == pytest.approx(expected)
    assert (found.boxes, found.outside) == (len(boxes), len(boxes) - 1)


def test_boxes_of_a_phrase_are_one_region():
    values = noise()
    mask, outside = region([(0, 0, 4, 4), (2, 2, 8, 6), (99, 0, 101, 5)], values.shape)
    expected = np.zeros(values.shape, bool)
    expected[:4, :4] = expected[2:6, 2:8] = True
    assert (mask == expected).all()
    assert outside == 1
    found = score_phrase(values, [(0, 0, 4, 4), (2, 2, 8, 6)])
    assert found.cnr == pytest.approx(by_hand(values, expected, (0.1,))[0])


def test_volumes():
    values = noise((5, 6, 7))
    mask, _ = region([(1, 2, 3, 4, 5, 5)], values.shape)
    expected = np.zeros(values.shape, bool)
    expected[3:5, 2:5, 1:4] = True
    assert (mask == expected).all()
    found = score_phrase(values, [(1, 2, 3, 4, 5, 5)])
    assert found.cnr_signed == pytest.approx(by_hand(values, expected, (0.1,))[1])


def test_sign_pointing_and_rescaling():
    values = np.full((4, 4), -0.4, np.float32) + 0.01 * np.arange(16, dtype=np.float32).reshape(4, 4)
    values[0, 0] = -3
    dark = score_phrase(values, [(0, 0, 1, 1), (1, 0, 2, 1)])
    assert dark.cnr_signed == -dark.cnr < 0
    assert dark.pointing == dark.miou == 0
    assert score_phrase(values, [(3, 3, 4, 4)]).pointing == 1
    stretched = score_phrase(values, [(0, 0, 4, 4)], GroundingProtocol(rescale="minmax"))
    assert stretched.miou == pytest.approx(15 / 16)
    assert np.isnan(stretched.cnr)
    level = np.zeros((4, 4), np.float32)
    level[0, 0] = level[2, 2] = 1
    assert score_phrase(level, [(0, 0, 1, 1)]).pointing == 0.5


def test_flat_maps_have_no_contrast():
    flat = score_phrase(np.full((4, 4), 0.37, np.float32), [(0, 0, 2, 2)])
    assert (flat.cnr, flat.cnr_signed, flat.pointing) == (0, 0, 0.25)
    assert flat.miou == pytest.approx((4 / 16 * 3 + 0 + 0) / 5)
    rounded = score_phrase(upsample(np.full((3, 5), 0.37, np.float32), (32, 32)), [(0, 0, 16, 16)])
    assert (rounded.cnr, rounded.pointing) == (0, 0.25)
    stepped = np.zeros((4, 4), np.float32)
    stepped[:2, :2] = 1
    assert np.isnan(score_phrase(stepped, [(0, 0, 2, 2)]).cnr)
    assert score_phrase(stepped, [(0, 0, 2, 2)]).miou == 1


@pytest.mark.parametrize(("shape", "size"), [((3, 4), (21, 40)), ((2, 3, 4), (8, 9, 16))])
def test_upsampling_keeps_patch_centres(shape, size):
    patches = noise(shape)
    found = upsample(patches, size)
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    expected = F.interpolate(from_numpy(patches)[None, None], size=size, mode=mode)[0, 0].numpy()
    assert np.array_equal(found, expected)
    rows = np.linspace(0, 1, 5, dtype=np.float32)[:, None].repeat(5, axis=1)
    ramp = upsample(rows, (15, 15))
    assert ramp[1::3, 0] == pytest.approx(rows[:, 0], abs=1e-6)  # pixel 3 n + 1 is the centre of patch n
    assert np.diff(ramp[1:14, 7]) == pytest.approx(np.full(12, 1 / 12), abs=1e-6)


@pytest.mark.parametrize(
    ("values", "boxes", "message"),
    [
        (np.full((3, 3), np.nan), [(0, 0, 1, 1)], "NaN or infinity"),
        (np.zeros((3, 3), int), [(0, 0, 1, 1)], "map is int64"),
        (np.zeros((3, 3)), [], "no boxes"),
        (np.zeros((3, 3)), [(0, 0, 1)], "give 4 numbers"),
        (np.zeros((3, 3)), [(2, 0, 1, 1)], "lower edge below its upper"),
        (np.zeros((3, 3, 3)), [(0, 0, 1, 1)], "give 6 numbers"),
    ],
)
def test_bad_input_is_refused(values, boxes, message):
    with pytest.raises(ValueError, match=message):
        score_phrase(values, boxes)


def test_means_leave_out_phrases_without_score():
    none = PhraseScore(np.nan, np.nan, np.nan, np.nan, 2, 2)
    all_inside = PhraseScore(np.nan, np.nan, 0.6, 1.0, 1, 0)
    phrases = Phrases(
        ["p", "p", "q", "r"], [PhraseScore(2, -2, 0.2, 0, 1, 0), none, all_inside, PhraseScore(1, 1, 0.4, 1, 3, 1)]
    )
    assert {name: float(value) for name, value in phrases.values().items()} == pytest.approx(
        {"cnr": 1.5, "cnr_signed": -0.5, "miou": 0.4, "pointing": 2 / 3}
    )
    found = phrases(np.array([[3.0, 5, 1, 1], [0, 2, 0, 0]]))
    assert found["cnr"][0] == pytest.approx(7 / 4)
    assert found["miou"][0] == pytest.approx(1.6 / 5)
    assert np.isnan(found["miou"][1])
    assert phrases.facts() == {
        "phrases": 4, "boxes": 7, "boxes_outside": 3, "phrases_without_box": 1, "phrases_without_contrast": 2,
    }  # fmt: skip
    with pytest.raises(ValueError, match="1 scores of 0 patients"):
        Phrases([], [none])
