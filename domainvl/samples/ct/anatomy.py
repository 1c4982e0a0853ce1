"""The healthy body, from the apices of the lungs to below the kidneys, with the organs that it is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from domainvl.samples.canvas import Field
from domainvl.samples.ct.solids import Bubbles, Canvas, Capsule, Ellipsoid, Grid, Part, Point, fill

STRUCTURES = {
    "spleen": 1,
    "kidney_right": 2,
    "kidney_left": 3,
    "liver": 5,
    "lung_upper_lobe_left": 10,
    "lung_lower_lobe_left": 11,
    "lung_upper_lobe_right": 12,
    "lung_middle_lobe_right": 13,
    "lung_lower_lobe_right": 14,
    "heart": 51,
    "aorta": 52,
}
"""Names and numbers of TotalSegmentator's task `total`, version 2."""

ORGAN_STRUCTURES = {
    "lungs": tuple(name for name in STRUCTURES if name.startswith("lung")),
    "heart": ("heart",),
    "aorta": ("aorta",),
    "liver": ("liver",),
    "spleen": ("spleen",),
    "kidneys": ("kidney_right", "kidney_left"),
}

AIR, FAT, MUSCLE, WATER, BONE = -1000.0, -100.0, 50.0, 8.0, 480.0
_SIGN = {"right": 1.0, "left": -1.0}
_DISC = 26.0
"""Millimetres from one vertebra to the next."""


@dataclass(frozen=True)
class Body:
    """What is a person's own and the same in every scan.

    Attributes:
        trunk: The skin.
        fat: Thickness of what lies under it.
        lungs: By side.
        heart: In its usual size.
        liver: Right lobe and left lobe.
        spleen: In its usual size.
        kidneys: By side.
        cavity: What holds the bowel.
        bowel: Loops of it.
        gas: And what is in some of them.
        lung_density: Hounsfield units of healthy lung.
    """

    trunk: Ellipsoid
    fat: float
    lungs: dict[str, Ellipsoid]
    heart: Ellipsoid
    liver: tuple[Ellipsoid, Ellipsoid]
    spleen: Ellipsoid
    kidneys: dict[str, Ellipsoid]
    cavity: Ellipsoid
    bowel: Bubbles
    gas: Bubbles
    lung_density: float

    @property
    def vessels(self) -> tuple[Capsule, ...]:
        """The aorta: up from the heart, over, and down in front of the spine."""
        x, y, z = self.heart.centre
        root, top, back = (x + 22, y - 8, z + 30), (x + 18, y - 18, z + 78), (-22.0, -34.0, z + 78)
        return (
            Capsule(root, top, 15.0),
            Capsule(top, back, 14.0),
            Capsule(back, (-20.0, -36.0, -180.0), 13.0),
        )


@dataclass(frozen=True)
class Enhancement:
    """Hounsfield units of what contrast medium brightens."""

    blood: float
    liver: float
    spleen: float
    kidney: float


PLAIN = Enhancement(blood=42.0, liver=62.0, spleen=52.0, kidney=36.0)
VENOUS = Enhancement(blood=150.0, liver=112.0, spleen=124.0, kidney=175.0)


def draw_body(rng: np.random.Generator) -> Body:
    """Draws one person."""
    size = float(rng.uniform(0.96, 1.04))

    def about(x: float, y: float, z: float, spread: float = 3.0) -> Point:
        moved = np.array([x, y, z]) * size + rng.uniform(-spread, spread, 3)
        return float(moved[0]), float(moved[1]), float(moved[2])

    def radii(x: float, y: float, z: float, spread: float = 0.04) -> Point:
        grown = np.array([x, y, z]) * size * rng.uniform(1 - spread, 1 + spread, 3)
        return float(grown[0]), float(grown[1]), float(grown[2])

    trunk = Ellipsoid((0, 0, 0), (*radii(168, 122, 0)[:2], 900.0), float(rng.uniform(2.2, 2.7)))
    return Body(
        trunk=trunk,
        fat=float(rng.uniform(8, 20)),
        lungs={side: Ellipsoid(about(sign * 74, 6, 82), radii(56, 80, 92), 2.3) for side, sign in _SIGN.items()},
        heart=Ellipsoid(about(-18, 34, 24), radii(52, 42, 44)),
        liver=(
            Ellipsoid(about(68, 6, -42), radii(74, 74, 64), 2.3),
            Ellipsoid(about(0, 42, -32), radii(58, 32, 34)),
        ),
        spleen=Ellipsoid(about(-104, -30, -36), radii(27, 38, 42)),
        kidneys={side: Ellipsoid(about(sign * 62, -46, -98), radii(26, 29, 50)) for side, sign in _SIGN.items()},
        cavity=Ellipsoid((0, 14, -105), (trunk.radii[0] - 28, trunk.radii[1] - 30, 130), 2.6),
        bowel=Bubbles.draw(rng, 34.0, 0.85),
        gas=Bubbles.draw(rng, 34.0, 0.06),
        lung_density=float(rng.uniform(-860, -800)),
    )


@dataclass(frozen=True)
class Scene:
    """A healthy body in one grid, and what its organs lie in.

    Attributes:
        body: Whose it is.
        canvas: What is drawn.
        enhancement: How bright organs are.
        lungs: Voxels and opacity of each lung, by side.
        cavity: Voxels and opacity of the belly's inside.
    """

    body: Body
    canvas: Canvas
    enhancement: Enhancement
    lungs: dict[str, tuple[Part, Field]]
    cavity: tuple[Part, Field]


def scene(
    body: Body, grid: Grid, enhancement: Enhancement, *, heart: float, spleen: float, pericardium: float
) -> Scene:
    """Draws the body, organs of the front over those behind.

    Args:
        body: Who.
        grid: In which voxels.
        enhancement: How bright organs are.
        heart: Size of the heart; 1 is usual.
        spleen: Size of the spleen; 1 is usual.
        pericardium: Millimetres of fluid around the heart.
    """
    canvas = Canvas.of(grid, AIR)
    _trunk(body, canvas)
    cavity = _belly(body, canvas)
    lungs = {side: canvas.paint(lung, body.lung_density) for side, lung in body.lungs.items()}
    _lobes(body, canvas, lungs)
    _middle(body, canvas)
    for lobe in body.liver:
        canvas.paint(lobe, enhancement.liver, STRUCTURES["liver"], within=_inner(body))
    canvas.paint(body.spleen.scaled(spleen), enhancement.spleen, STRUCTURES["spleen"], within=_inner(body))
    for side, kidney in body.kidneys.items():
        canvas.paint(kidney, enhancement.kidney, STRUCTURES[f"kidney_{side}"])
        x, y, z = kidney.centre
        canvas.paint(Ellipsoid((x - _SIGN[side] * 12, y, z), (11, 9, 22)), -60.0)
    whole = body.heart.scaled(heart)
    if pericardium:
        canvas.paint(whole.thicker(pericardium), WATER, STRUCTURES["heart"])
    canvas.paint(whole, enhancement.blood - 8, STRUCTURES["heart"])
    for vessel in body.vessels:
        canvas.paint(vessel, enhancement.blood, STRUCTURES["aorta"])
    _spine(canvas)
    return Scene(body, canvas, enhancement, lungs, cavity)


def _inner(body: Body) -> Ellipsoid:
    """What lies inside the ribs."""
    return body.trunk.thicker(-body.fat - 14)


def _trunk(body: Body, canvas: Canvas) -> None:
    grid = canvas.grid
    everything = grid.around(((-500, -500, -500), (500, 500, 500)))
    signed = body.trunk.signed(*grid.at(everything))
    canvas.blend(everything, fill(signed), FAT)
    canvas.blend(everything, fill(signed + np.float32(body.fat)), MUSCLE)
    # Ribs lean forward and down; they are where a shell inside the muscle meets slanted planes.
    shell = fill(np.abs(signed + np.float32(body.fat + 8)) - np.float32(4))
    bands = np.cos((grid.z + np.float32(0.45) * grid.y) * np.float32(2 * np.pi / 27))
    chest = fill(-grid.z - np.float32(60)) * fill(np.float32(-3) - bands * np.float32(6))
    canvas.blend(everything, shell * chest, BONE)


def _belly(body: Body, canvas: Canvas) -> tuple[Part, Field]:
    """Fat with loops of bowel in it, some of which hold gas."""
    part, opacity = canvas.paint(body.cavity, FAT + 40)
    at = canvas.grid.at(part)
    canvas.blend(part, opacity * body.bowel.opacity(*at), MUSCLE - 10)
    # The same lattice, so that gas lies in the middle of its loop.
    canvas.blend(part, opacity * body.gas.opacity(*at) * fill(np.float32(8) - at[1]), -850.0)
    return part, opacity


def _lobes(body: Body, canvas: Canvas, lungs: dict[str, tuple[Part, Field]]) -> None:
    """Fissures run from high in the back to low in the front."""
    for side, (part, opacity) in lungs.items():
        _, y, z = canvas.grid.at(part)
        inside = opacity > 0.5
        middle = body.lungs[side].centre[2] - 12
        upper = z > middle - np.float32(0.6) * y
        labels = canvas.labels[part]
        labels[inside & upper] = STRUCTURES[f"lung_upper_lobe_{side}"]
        labels[inside & ~upper] = STRUCTURES[f"lung_lower_lobe_{side}"]
        if side == "right":
            labels[inside & upper & (z < middle - 8)] = STRUCTURES["lung_middle_lobe_right"]


def _middle(body: Body, canvas: Canvas) -> None:
    """What lies between the lungs."""
    canvas.paint(Ellipsoid((0, 0, 110), (26, 62, 100), 3.0), 20.0, 0)
    canvas.paint(Capsule((2, -8, body.heart.centre[2] + 78), (2, -8, 300), 9.0), -980.0)


def _spine(canvas: Canvas) -> None:
    part, opacity = canvas.paint(Capsule((0, -78, -400), (0, -78, 400), 22.0), MUSCLE)
    _, _, z = canvas.grid.at(part)
    disc = fill(np.abs(np.mod(z, np.float32(_DISC)) - np.float32(_DISC / 2)) - np.float32(10))
    canvas.blend(part, opacity * disc, BONE - 120, 0)
    for sign in (-1.0, 1.0):
        canvas.paint(Capsule((sign * 20, -95, -400), (sign * 20, -95, 400), 7.0), BONE)
    canvas.paint(Capsule((0, -106, -400), (0, -106, 400), 5.0), BONE)
