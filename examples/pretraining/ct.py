"""CT slice cartoons: one axial cut through chest or belly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretraining.drawing import COLUMNS, ROWS, Mask, blob, grey_picture, rim, speckle
from pretraining.worlds import Caption, Facts, Picture, statement

NAME = "ct"
_NAMES = {
    "ct nodule": ("a lung nodule", "a pulmonary nodule"),
    "ct effusion": ("pleural effusion", "fluid behind the lung"),
    "emphysema": ("emphysema", "holes in the lung"),
    "calcification": ("arterial calcification", "a calcified artery"),
    "liver lesion": ("a liver lesion", "a dark spot in the liver"),
    "kidney stone": ("a kidney stone", "a bright dot in the kidney"),
    "ascites": ("ascites", "free fluid in the belly"),
}
_CHEST = ("ct nodule", "ct effusion", "emphysema", "calcification")
_BELLY = ("liver lesion", "kidney stone", "ascites", "calcification")
FACTS = (*_NAMES, "belly")
MARKED = ("ct nodule", "ct effusion", "liver lesion", "kidney stone")
_INTROS = ("ct scan", "axial ct slice", "computed tomography image")
_NOTHING = ("with no finding", "that is normal")


def imagine(rng: np.random.Generator) -> Facts:
    """Draws the level first, because most findings belong to one."""
    belly = rng.random() < 0.5
    found = {fact for fact in (_BELLY if belly else _CHEST) if rng.random() < 0.3}
    return frozenset(found | ({"belly"} if belly else set()))


def describe(rng: np.random.Generator, facts: Facts) -> Caption:
    """Names the level in the introduction, so that captions of chest and belly differ from the first words."""
    belly = "belly" in facts
    level = "abdomen" if belly else "chest"
    caption = statement(
        rng,
        facts,
        intros=tuple(f"{intro} of the {level}" for intro in _INTROS),
        names={fact: _NAMES[fact] for fact in (_BELLY if belly else _CHEST)},
        nothing=_NOTHING,
    )
    if belly:
        return Caption(caption.text, caption.present | {"belly"}, caption.absent)
    return Caption(caption.text, caption.present, caption.absent | {"belly"})


def draw(rng: np.random.Generator, facts: Facts) -> Picture:
    """Draws a round body with the spine at the bottom."""
    image = np.zeros(ROWS.shape, dtype=np.float32)
    wide, tall = rng.uniform(0.4, 0.47), rng.uniform(0.3, 0.4)
    body = blob(0.5, 0.5, wide, tall, rng.uniform(2, 3))
    tissue = rng.uniform(0.4, 0.6)
    image[body] = tissue
    image[rim(body, int(rng.integers(1, 4)))] = tissue * 0.7
    image[blob(0.5, 0.5 + 0.7 * tall, 0.07, 0.07)] = 0.95
    if "belly" in facts:
        marks = _belly(rng, image, facts, wide, tall, tissue)
    else:
        marks = _chest(rng, image, facts, wide, tall, tissue)
    artery = blob(0.56, 0.5 + 0.42 * tall, 0.05, 0.05)
    image[artery] = tissue + 0.12
    if "calcification" in facts:
        image[rim(artery, 2) & (COLUMNS > 0.56)] = 1.0
    return Picture(grey_picture(rng, image), marks)


def _chest(
    rng: np.random.Generator, image: NDArray[np.float32], facts: Facts, wide: float, tall: float, tissue: float
) -> dict[str, Mask]:
    lungs = {sign: blob(0.5 + sign * 0.5 * wide, 0.47, 0.36 * wide, 0.68 * tall, 2.3) for sign in (-1, 1)}
    for lung in lungs.values():
        image[lung] = rng.uniform(0.03, 0.12)
        if "emphysema" in facts:
            image[lung & (speckle(rng, 20) > 0.55)] += 0.13
    side = int(rng.choice([-1, 1]))
    marks: dict[str, Mask] = {}
    if "ct effusion" in facts:
        marks["ct effusion"] = lungs[side] & (np.float32(0.47 + rng.uniform(0.2, 0.4) * tall) < ROWS)
        image[marks["ct effusion"]] = tissue
    if "ct nodule" in facts:
        radius = rng.uniform(0.03, 0.055)
        x, y = 0.5 - side * rng.uniform(0.4, 0.6) * wide, 0.47 + rng.uniform(-0.3, 0.2) * tall
        marks["ct nodule"] = blob(x, y, radius, radius)
        image[marks["ct nodule"]] = tissue
    image[blob(0.53, 0.42, 0.13, 0.11)] = tissue + 0.1
    return marks


def _belly(
    rng: np.random.Generator, image: NDArray[np.float32], facts: Facts, wide: float, tall: float, tissue: float
) -> dict[str, Mask]:
    marks: dict[str, Mask] = {}
    if "ascites" in facts:
        image[rim(blob(0.5, 0.47, 0.88 * wide, 0.82 * tall), 5)] = tissue - 0.15
    image[blob(0.5 - 0.42 * wide, 0.45, 0.42 * wide, 0.55 * tall, 2.4)] = tissue + 0.15
    image[blob(0.5 + 0.55 * wide, 0.42, 0.2 * wide, 0.3 * tall)] = tissue + 0.18
    for sign in (-1, 1):
        image[blob(0.5 + sign * 0.45 * wide, 0.5 + 0.5 * tall, 0.07, 0.09)] = tissue + 0.22
    if "liver lesion" in facts:
        radius = rng.uniform(0.03, 0.06)
        marks["liver lesion"] = blob(0.5 - rng.uniform(0.3, 0.6) * wide, 0.43, radius, radius)
        image[marks["liver lesion"]] = tissue - 0.15
    if "kidney stone" in facts:
        sign = int(rng.choice([-1, 1]))
        marks["kidney stone"] = blob(0.5 + sign * 0.45 * wide, 0.5 + 0.5 * tall, 0.025, 0.025)
        image[marks["kidney stone"]] = 1.0
    return marks
