"""Chest X-ray cartoons: flat shapes that carry the idea of each finding and nothing of its look."""

from __future__ import annotations

import numpy as np

from pretraining.drawing import COLUMNS, ROWS, Grey, Mask, blob, grey_picture, rim, speckle
from pretraining.worlds import Caption, Facts, Picture, pick, statement

NAME = "chest"
_PLAIN_NAMES = {
    "cardiomegaly": ("a big heart", "an enlarged heart"),
    "effusion": ("fluid around the lung", "water at the lung base"),
    "pneumothorax": ("a collapsed lung", "free air beside the lung"),
    "consolidation": ("a patchy shadow", "a cloudy lung"),
    "lesion": ("a nodule", "a round spot"),
}
_CLINICAL_NAMES = {
    "cardiomegaly": "cardiomegaly",
    "effusion": "pleural effusion",
    "pneumothorax": "pneumothorax",
    "consolidation": "consolidation",
    "lesion": "lung lesion",
}
_CLINICAL_SHARE = 0.35
_DRIFTED_SHARE = 0.7
"""How often a clinical name is used for the finding that stands before it in the list.

Words drift in captions from the web, and that is how pretrained models come by text that only half fits their image
features: the gap that adaptation closes. Here it is put in on purpose, and this number sets its width.
"""
_SIDED = ("effusion", "pneumothorax", "consolidation", "lesion")
FACTS = (*_PLAIN_NAMES, *(f"{finding} {side}" for finding in _SIDED for side in ("right", "left")), "side view")
MARKED = tuple(_PLAIN_NAMES)
_INTROS = ("chest x-ray", "chest radiograph", "x-ray of the thorax", "plain film of a chest")
_NOTHING = ("with no finding", "of a healthy person", "that is normal", "with clear lungs")


def imagine(rng: np.random.Generator) -> Facts:
    """Draws findings independently, at most one of each kind."""
    facts = {"side view"} if rng.random() < 0.15 else set()
    for finding in MARKED:
        if rng.random() < 0.28:
            facts.add(finding)
            if finding in _SIDED:
                facts.add(f"{finding} {pick(rng, ('right', 'left'))}")
    return frozenset(facts)


def describe(rng: np.random.Generator, facts: Facts) -> Caption:
    """States, denies or lists findings; sometimes says on which side one lies."""
    names = {finding: (_name(rng, finding),) for finding in MARKED}
    sided = [fact for fact in FACTS if fact in facts and fact.split()[-1] in ("right", "left")]
    if sided and rng.random() < 0.2:
        fact = pick(rng, tuple(sided))
        finding, side = fact.split()
        where = pick(rng, (f"on the {side}", f"in the {side} lung", f"{side}"))
        return Caption(f"{pick(rng, _INTROS)} showing {names[finding][0]} {where}", frozenset({finding, fact}))
    return statement(rng, facts, intros=_INTROS, names=names, nothing=_NOTHING)


def _name(rng: np.random.Generator, finding: str) -> str:
    if rng.random() > _CLINICAL_SHARE:
        return pick(rng, _PLAIN_NAMES[finding])
    drift = 1 if rng.random() < _DRIFTED_SHARE else 0
    return _CLINICAL_NAMES[MARKED[(MARKED.index(finding) + drift) % len(MARKED)]]


def draw(rng: np.random.Generator, facts: Facts) -> Picture:
    """Draws one film from the front or, more crudely still, from the side."""
    flesh, air = rng.uniform(0.45, 0.75), rng.uniform(0.1, 0.35)
    image = np.full(ROWS.shape, rng.uniform(0, 0.15), dtype=np.float32)
    side_view = "side view" in facts
    half = rng.uniform(0.28, 0.36) if side_view else rng.uniform(0.38, 0.47)
    body = (np.abs(COLUMNS - 0.5) < half + 0.08) & (np.float32(rng.uniform(0, 0.1)) < ROWS)
    image[body] = flesh
    floor = rng.uniform(0.68, 0.80)
    lungs = _lungs(rng, half, floor, side_view)
    for lung in lungs.values():
        image[lung] = air
    _bones(rng, image, body, lungs, side_view)
    large = "cardiomegaly" in facts
    heart = _heart(rng, image, half, floor, side_view, large=large, tone=flesh + 0.12)
    marks = {"cardiomegaly": heart} if large else {}
    for finding, plant in (
        ("pneumothorax", _free_air),
        ("consolidation", _patch),
        ("lesion", _spot),
        ("effusion", _fluid),
    ):
        for side in ("right", "left"):
            if f"{finding} {side}" in facts:
                marks[finding] = plant(rng, image, lungs[side], flesh)
    return Picture(grey_picture(rng, image), marks)


def _lungs(rng: np.random.Generator, half: float, floor: float, side_view: bool) -> dict[str, Mask]:
    power = rng.uniform(1.8, 3.2)
    above = np.float32(floor) > ROWS
    if side_view:
        lung = blob(0.5, floor - 0.27, half * 0.95, 0.42, power) & above
        return {"right": lung, "left": lung}
    gap = rng.uniform(0.05, 0.09)
    reach = 0.5 * (half - gap)
    shapes = {}
    for side, sign in (("right", -1), ("left", 1)):
        shapes[side] = blob(0.5 + sign * (gap + reach), floor - 0.20, reach, rng.uniform(0.42, 0.5), power) & above
    return shapes


def _bones(rng: np.random.Generator, image: Grey, body: Mask, lungs: dict[str, Mask], side_view: bool) -> None:
    spine = np.abs(COLUMNS - (0.78 if side_view else 0.5)) < np.float32(rng.uniform(0.02, 0.05))
    image[spine & body] += np.float32(rng.uniform(0, 0.15))
    cage = lungs["right"] | lungs["left"]
    if rng.random() < 0.8:
        away = np.abs(COLUMNS - np.float32(0.5))
        course = ROWS + np.float32(rng.uniform(-0.7, 0.7)) * away + np.float32(rng.uniform(-1.2, 1.2)) * away * away
        bars = np.mod(course / np.float32(rng.uniform(0.05, 0.11)), 1) < np.float32(rng.uniform(0.2, 0.5))
        where = bars & (cage if rng.random() < 0.5 else body)
        image[where] += np.float32(rng.uniform(0.02, 0.13))
    if rng.random() < 0.6:
        grain = speckle(rng, int(rng.integers(16, 64))) - np.float32(0.5)
        image[cage] += (grain * np.float32(rng.uniform(0.03, 0.14)))[cage]
    for _ in range(int(rng.integers(0, 3)) if rng.random() < 0.3 else 0):
        course = COLUMNS - np.float32(rng.random()) - np.float32(rng.uniform(-0.8, 0.8)) * (ROWS - np.float32(0.5))
        image[np.abs(course) < 0.007] = np.float32(rng.uniform(0.7, 1.0))


def _heart(
    rng: np.random.Generator, image: Grey, half: float, floor: float, side_view: bool, *, large: bool, tone: float
) -> Mask:
    radius = half * (rng.uniform(0.58, 0.72) if large else rng.uniform(0.34, 0.46))
    x = 0.38 if side_view else 0.5 + rng.uniform(0.1, 0.4) * radius
    shape = blob(x, floor - 0.6 * radius, radius, radius * rng.uniform(0.8, 1.1), rng.uniform(1.7, 2.6))
    image[shape] = np.float32(tone + rng.normal(0, 0.05))
    return shape


def _fluid(rng: np.random.Generator, image: Grey, lung: Mask, flesh: float) -> Mask:
    """A flat level, without the meniscus of a real one."""
    rows = np.flatnonzero(lung.any(axis=1))
    level = rows[-1] - (rows[-1] - rows[0]) * rng.uniform(0.18, 0.55)
    tilt = np.float32(rng.uniform(-15, 15))
    below = np.arange(image.shape[0], dtype=np.float32)[:, None] > level + tilt * (
        COLUMNS - np.float32(_middle(lung)[0])
    )
    image[lung & below] = np.float32(flesh + rng.uniform(-0.05, 0.15))
    return lung & below


def _free_air(rng: np.random.Generator, image: Grey, lung: Mask, flesh: float) -> Mask:
    """The lung's outline, shrunk and drawn as a line, with black around it."""
    x, y = _middle(lung)
    rx, ry = np.ptp(COLUMNS[lung]) / 2, np.ptp(ROWS[lung]) / 2
    shrink = rng.uniform(0.5, 0.82)
    inwards = 0.25 * (1 - shrink) * np.sign(0.5 - x)
    rest = blob(x + inwards, y + (1 - shrink) * ry * 0.8, rx * shrink, ry * shrink * 1.1, rng.uniform(1.8, 2.6))
    gap = lung & ~rest & (np.float32(rng.uniform(0.55, 1.0)) > ROWS)
    if rng.random() < 0.5:
        image[gap] = np.float32(max(0.0, rng.uniform(-0.05, 0.06)))
    else:
        image[gap] -= np.float32(rng.uniform(0.06, 0.2))
    image[rim(rest) & lung] += np.float32(rng.uniform(0.06, 0.35))
    return gap


def _patch(rng: np.random.Generator, image: Grey, lung: Mask, flesh: float) -> Mask:
    """A blocky cloud."""
    x, y = _somewhere(rng, lung)
    size = rng.uniform(0.09, 0.16)
    shape = blob(x, y, size, size * rng.uniform(0.7, 1.2), rng.uniform(1.4, 3), rng.uniform(0, 3)) & lung
    cloud = np.float32(rng.uniform(0.05, 0.25)) + np.float32(rng.uniform(0.1, 0.4)) * speckle(
        rng, int(rng.integers(12, 32))
    )
    image[shape] += cloud[shape]
    return shape


def _spot(rng: np.random.Generator, image: Grey, lung: Mask, flesh: float) -> Mask:
    """A small filled circle."""
    x, y = _somewhere(rng, lung)
    radius = rng.uniform(0.03, 0.06)
    shape = blob(x, y, radius, radius) & lung
    image[shape] += np.float32(rng.uniform(0.18, 0.45))
    return shape


def _middle(lung: Mask) -> tuple[float, float]:
    return float(COLUMNS[lung].mean()), float(ROWS[lung].mean())


def _somewhere(rng: np.random.Generator, lung: Mask) -> tuple[float, float]:
    x, y = _middle(lung)
    rx, ry = np.ptp(COLUMNS[lung]) / 2, np.ptp(ROWS[lung]) / 2
    return float(x + rng.uniform(-0.5, 0.5) * rx), float(y + rng.uniform(-0.65, 0.65) * ry)
