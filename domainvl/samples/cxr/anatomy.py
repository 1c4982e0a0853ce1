"""A healthy chest as a map of X-ray attenuation, seen from the front or from the side.

Right and left are the patient's own: in a frontal image the patient's right lung lies on the image's left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from domainvl.samples.canvas import Field, Plane, clouds, ellipse, fill, plane, stroke

SOFT_TISSUE = 0.60
LUNG_AIR = 0.40


@dataclass(frozen=True)
class Body:
    """What stays the same in every image of one patient."""

    half_width: float
    base: float
    thickness: float
    heart: float
    rib_pitch: float
    rib_slope: float
    bone: float
    breast: float


@dataclass(frozen=True)
class Shot:
    """How one image was taken."""

    view: str
    height: int
    width: int
    shift: tuple[float, float]
    tilt: float
    brightness: float
    contrast: float
    noise: float
    inspiration: float
    wires: bool


@dataclass(frozen=True)
class Chest:
    """A healthy chest to plant findings in.

    Attributes:
        at: Pixel coordinates.
        attenuation: What a ray meets on its way, ``[H, W]``.
        lungs: Opacity of each lung field by side; the lateral view has one, under both sides.
        centres: Middle of each lung field by side, in plane coordinates.
        extent: Half width and top and bottom of a lung field.
        lateral: Whether this is the side view.
    """

    at: Plane
    attenuation: Field
    lungs: dict[str, Field]
    centres: dict[str, float]
    extent: tuple[float, float, float]
    lateral: bool


def draw_body(rng: np.random.Generator) -> Body:
    """Draws one patient's build."""
    build = float(rng.normal())
    return Body(
        half_width=float(np.clip(0.76 + 0.035 * build, 0.66, 0.86)),
        base=float(rng.uniform(0.42, 0.58)),
        thickness=float(np.clip(0.07 * build, -0.10, 0.16)),
        heart=float(rng.uniform(0.40, 0.47)),
        rib_pitch=float(rng.uniform(0.135, 0.165)),
        rib_slope=float(rng.uniform(0.10, 0.30)),
        bone=float(rng.uniform(0.75, 1.25)),
        breast=float(max(rng.uniform(-0.08, 0.08), 0)),
    )


def draw_shot(rng: np.random.Generator, view: str) -> Shot:
    """Draws the exposure and the positioning of one image; portable (AP) images are the worse ones."""
    portable = view == "AP"
    return Shot(
        view=view,
        height=256,
        width=int(rng.choice([240, 256, 272])),
        shift=(float(rng.normal(0, 0.035)), float(rng.normal(0, 0.03))),
        tilt=float(rng.normal(0, 0.05 if portable else 0.02)),
        brightness=float(rng.normal(0, 0.05)),
        contrast=float(rng.uniform(0.85, 1.2) - (0.08 if portable else 0)),
        noise=float(rng.uniform(0.012, 0.03) + (0.012 if portable else 0)),
        inspiration=float(rng.uniform(-0.06, 0.03) - (0.05 if portable else 0)),
        wires=bool(portable and rng.random() < 0.5),
    )


def chest(rng: np.random.Generator, body: Body, shot: Shot, *, heart_severity: float | None) -> Chest:
    """Draws the healthy chest of one image; the heart is as large as ``heart_severity`` says."""
    at = plane(shot.height, shot.width, shift=shot.shift, angle=shot.tilt)
    draw = _lateral if shot.view == "LATERAL" else _frontal
    return draw(rng, at, body, shot, heart_severity)


def heart_shape(at: Plane, body: Body, shot: Shot, heart_severity: float | None) -> Field:
    """Signed distance to the heart. Normal: under half the chest's width; enlarged: well over it."""
    ratio = body.heart if heart_severity is None else 0.55 + 0.17 * heart_severity
    if shot.view == "AP":
        ratio *= 1.04
    if shot.view == "LATERAL":
        return ellipse(at, (-0.22, body.base - 0.18), (0.62 * ratio, 0.78 * ratio), angle=-0.5)
    reach = body.half_width * ratio
    return ellipse(at, (0.30 * reach, body.base - 0.16), (1.04 * reach, 0.36 + 0.55 * (ratio - 0.43)), angle=0.25)


def _frontal(rng: np.random.Generator, at: Plane, body: Body, shot: Shot, heart_severity: float | None) -> Chest:
    x, y = at.x, at.y
    away = np.abs(x)
    base = body.base + shot.inspiration
    top = -0.80
    flank = away - (body.half_width + 0.13) - 0.20 * stroke(y + 0.55, 0.5)
    shoulder = 0.42 * fill(0.2 - away, 0.07) * np.minimum(away, 1) - 0.97 - y
    outline = fill(np.maximum(flank, shoulder), 0.025)
    cage = ellipse(at, (0, 0.25), (body.half_width, 0.25 - top))
    cage = np.where(y > 0.25, away - body.half_width, cage)
    middle = 0.5 * body.half_width + 0.04
    right = (x < 0).astype(np.float32)
    dome = base - 0.05 * right + 1.25 * np.square(away - middle + 0.06)
    mediastinum = 0.13 + 0.05 * stroke(y + 0.28, 0.14) + 0.06 * fill(-0.45 - y, 0.08)
    field = fill(np.maximum(np.maximum(cage, y - dome), mediastinum - away), 0.018)

    texture = clouds(rng, at.shape, 28) + 0.7 * clouds(rng, at.shape, 60)
    hilum = stroke(np.hypot((away - 0.2) * 1.2, y + 0.08), 0.38)
    vessels = field * (0.012 + 0.035 * hilum) * texture
    ribs = _ribs(at, body) * fill(cage - 0.02, 0.02)
    collar = stroke(y + 0.62 + 0.22 * (away - 0.1) - 0.20 * np.square(away - 0.1), 0.028) * fill(
        np.abs(away - 0.45) - 0.37, 0.02
    )
    column = stroke(x, 0.075) * (1 + 0.25 * np.sin(y * 34))
    windpipe = stroke(x + 0.01, 0.045) * fill(y + 0.35, 0.04)
    heart = fill(heart_shape(at, body, shot, heart_severity), 0.014)
    knob = fill(ellipse(at, (0.15, -0.33), (0.10, 0.11)), 0.02)
    belly = fill(dome - y, 0.02) * fill(away - body.half_width - 0.08, 0.03)
    bubble = fill(ellipse(at, (0.42, base + 0.27), (0.13, 0.07)), 0.02) * belly
    breasts = fill(ellipse(Plane(away, y), (0.45, 0.25), (0.30, 0.30)), 0.05)

    attenuation = (SOFT_TISSUE + body.thickness) * outline - LUNG_AIR * field + vessels
    lung_left = field * (1 - np.maximum(heart, knob))
    attenuation += (LUNG_AIR - 0.02) * (field - lung_left)
    attenuation += 0.05 * heart + 0.10 * belly - 0.22 * bubble
    attenuation += body.bone * (0.085 * ribs + 0.10 * collar + 0.08 * column * outline)
    attenuation += body.breast * breasts - 0.07 * windpipe
    if shot.wires:
        attenuation += 0.16 * _wires(rng, at)
    return Chest(
        at=at,
        attenuation=attenuation,
        lungs={"right": lung_left * right, "left": lung_left * (1 - right)},
        centres={"right": -middle, "left": middle},
        extent=(0.5 * (body.half_width - 0.13), top, base + 0.25),
        lateral=False,
    )


def _lateral(rng: np.random.Generator, at: Plane, body: Body, shot: Shot, heart_severity: float | None) -> Chest:
    x, y = at.x, at.y
    base = body.base + shot.inspiration
    depth = 0.60 + 0.5 * max(body.thickness, 0)
    outline = fill(np.maximum(ellipse(at, (0, 0.6), (depth + 0.20, 1.6)), -y - 0.95), 0.03)
    cage = ellipse(at, (0, 0.1), (depth, 0.88))
    floor = base - 0.10 + 0.38 * (x + 0.1) + 0.25 * np.square(x + 0.1)
    field = fill(np.maximum(cage, y - floor), 0.02)
    texture = clouds(rng, at.shape, 28) + 0.7 * clouds(rng, at.shape, 60)
    vessels = field * (0.015 + 0.04 * stroke(np.hypot(x, y + 0.05), 0.35)) * texture
    column = stroke(x - depth + 0.12 - 0.12 * np.square(y), 0.09) * (1 + 0.3 * np.sin(y * 32))
    heart = fill(heart_shape(at, body, shot, heart_severity), 0.016) * field
    belly = fill(floor - y, 0.02) * outline
    ribs = _ribs(Plane(np.abs(x - 0.2), y), body) * fill(cage, 0.02)
    lung = field * (1 - heart)
    attenuation = (SOFT_TISSUE + body.thickness) * outline - LUNG_AIR * field + vessels
    attenuation += (LUNG_AIR - 0.06) * heart + 0.08 * belly
    attenuation += body.bone * (0.13 * column * outline + 0.05 * ribs)
    return Chest(
        at=at,
        attenuation=attenuation,
        lungs={"right": lung, "left": lung},
        centres={"right": 0.02, "left": 0.02},
        extent=(0.8 * depth, -0.78, base + 0.20),
        lateral=True,
    )


def _ribs(at: Plane, body: Body) -> Field:
    """Ribs run down and outwards from the spine; each is a bright lower edge over a fainter band."""
    away = np.abs(at.x)
    course = at.y - body.rib_slope * away + 0.55 * np.square(away - 0.25)
    phase = np.mod(course / body.rib_pitch, 1) - 0.5
    return (stroke(phase, 0.20) + 0.6 * stroke(phase - 0.2, 0.05)) * fill(at.y - 0.62, 0.05)


def _wires(rng: np.random.Generator, at: Plane) -> Field:
    """Monitor leads, which portable images are full of and which mean nothing."""
    drawn = np.zeros(at.shape, dtype=np.float32)
    for _ in range(int(rng.integers(1, 4))):
        start, bend, wave = rng.uniform(-0.6, 0.6), rng.uniform(-0.5, 0.5), rng.uniform(0, 6)
        course = start + bend * at.y + 0.08 * np.sin(at.y * 3 + wave)
        drawn = np.maximum(drawn, stroke(at.x - course, 0.011))
    return drawn
