"""Paints findings into a healthy body and says where they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from domainvl.samples.canvas import Field
from domainvl.samples.ct.anatomy import PLAIN, STRUCTURES, VENOUS, WATER, Body, Scene, scene
from domainvl.samples.ct.cases import Lesion, Study
from domainvl.samples.ct.solids import EDGE, Bubbles, Capsule, Ellipsoid, Extent, Grid, Part, Point, fill, point

_PLACES = {"upper": (6.0, 22.0, 42.0), "lower": (10.0, -44.0, -26.0)}
"""From the middle of a lung to the middle of its lobes: outwards, to the front, up."""
_SIGN = {"right": 1.0, "left": -1.0}
_DENSE = 38.0
_DENSEST_BOWEL = 60.0

Painted = Iterator[tuple[Part, Field]]
"""Voxels, and how far a lesion fills them."""


@dataclass(frozen=True)
class Scan:
    """One finished reconstruction.

    Attributes:
        hounsfield: Values without noise, ``[D, H, W]``.
        labels: Structures, ``[D, H, W]``.
        boxes: For each lesion that is in it, where it lies, in millimetres of the body.
    """

    hounsfield: Field
    labels: NDArray[np.uint8]
    boxes: tuple[tuple[Lesion, Extent], ...]


def scan(rng: np.random.Generator, body: Body, study: Study, grid: Grid) -> Scan:
    """Draws one study into one grid; with the same chance, any other grid shows the same body."""
    sizes = {lesion.finding: lesion.severity for lesion in study.lesions}
    effusion = sizes.get("Pericardial effusion")
    heart = 1 + (0.18 + 0.30 * sizes["Cardiomegaly"] if "Cardiomegaly" in sizes else 0.0)
    spleen = 1 + (0.35 + 0.45 * sizes["Splenomegaly"] if "Splenomegaly" in sizes else 0.0)
    healthy = scene(
        body,
        grid,
        VENOUS if study.contrast else PLAIN,
        heart=heart,
        spleen=spleen,
        pericardium=0.0 if effusion is None else 8 + 14 * effusion,
    )
    boxes: list[tuple[Lesion, Extent]] = []
    for lesion in study.lesions:
        painted = _PAINTERS[lesion.finding](rng, healthy, lesion)
        found = [box for part, opacity in painted if (box := grid.box(part, opacity)) is not None]
        if found:
            boxes.append((lesion, _union(found)))
    return Scan(healthy.canvas.hounsfield, healthy.canvas.labels, tuple(boxes))


def _organ(rng: np.random.Generator, healthy: Scene, lesion: Lesion) -> Painted:
    """The finding is the size of an organ, or fluid around it, and has been drawn already."""
    shape = (slice(0, length) for length in healthy.canvas.labels.shape)
    yield (
        (next(shape), next(shape), next(shape)),
        (healthy.canvas.labels == STRUCTURES[lesion.organ]).astype(np.float32),
    )


def _nodule(rng: np.random.Generator, healthy: Scene, lesion: Lesion) -> Painted:
    """A ball with a clear edge."""
    radius = nodule_radius(lesion)
    ball = Ellipsoid(_place(rng, healthy, lesion, 8.0), (radius, radius, radius))
    yield healthy.canvas.paint(ball, _DENSE, within=healthy.body.lungs[lesion.side])


def _consolidation(rng: np.random.Generator, healthy: Scene, lesion: Lesion) -> Painted:
    """A cloud with an edge that follows no border, denser in some places than in others."""
    size = 24 + 20 * lesion.severity
    centre = _place(rng, healthy, lesion, 5.0)
    ball = Ellipsoid(centre, (size, size * 1.1, size))
    part = healthy.canvas.grid.around(ball.thicker(12).extent)
    at = healthy.canvas.grid.at(part)
    ripple = np.zeros_like(at[0])
    for _ in range(5):
        wave = rng.normal(0, 0.13, 3).astype(np.float32)
        phase = np.float32(rng.uniform(0, 2 * np.pi))
        ripple += np.sin(wave[0] * at[0] + wave[1] * at[1] + wave[2] * at[2] + phase)
    lung = (healthy.body.lungs[lesion.side].signed(*at) < EDGE) & _airy(healthy, part)
    opacity = lung * fill(ball.signed(*at) + np.float32(3.2) * ripple)
    healthy.canvas.blend(part, opacity * np.clip(np.float32(0.85) + np.float32(0.12) * ripple, 0.5, 1), 20.0)
    yield part, opacity


def _emphysema(rng: np.random.Generator, healthy: Scene, lesion: Lesion) -> Painted:
    """Holes in both lungs, which are too airy anyway."""
    holes = Bubbles.draw(rng, 17.0, 0.35 + 0.5 * lesion.severity)
    for part, opacity in healthy.lungs.values():
        lung = opacity * _airy(healthy, part)
        healthy.canvas.blend(part, lung * np.float32(0.25 + 0.25 * lesion.severity), -960.0)
        drawn = lung * holes.opacity(*healthy.canvas.grid.at(part))
        healthy.canvas.blend(part, drawn, -1000.0)
        yield part, drawn


def _effusion(rng: np.random.Generator, healthy: Scene, lesion: Lesion) -> Painted:
    """Lying on the back, fluid collects behind the lung, most of it at the base."""
    part, opacity = healthy.lungs[lesion.side]
    _, y, z = healthy.canvas.grid.at(part)
    lung = healthy.body.lungs[lesion.side]
    level = lung.centre[1] - lung.radii[1] * (0.72 - 0.75 * lesion.severity)
    rise = np.float32(0.22) * np.maximum(z - np.float32(lung.centre[2] - 0.4 * lung.radii[2]), 0)
    drawn = (opacity > 0) * _airy(healthy, part) * fill(y - np.float32(level) + rise)
    healthy.canvas.blend(part, drawn, WATER)
    yield part, drawn


def _calcification(rng: np.random.Generator, healthy: Scene, lesion: Lesion) -> Painted:
    """Plaques in the wall of the aorta."""
    for vessel in healthy.body.vessels:
        start, end = np.array(vessel.start), np.array(vessel.end)
        length = float(np.linalg.norm(end - start))
        for _ in range(max(1, round((0.4 + 0.6 * lesion.severity) * length / 11))):
            place = start + (end - start) * rng.uniform(0.05, 0.95)
            away = np.cross(end - start, rng.normal(size=3))
            wall = place + away / np.linalg.norm(away) * (vessel.radius - 3)
            along = (end - start) / length * float(rng.uniform(3, 7))
            plaque = Capsule(point(wall - along), point(wall + along), 5.0)
            yield healthy.canvas.paint(plaque, 1100.0, STRUCTURES["aorta"])


def _liver_lesion(rng: np.random.Generator, healthy: Scene, lesion: Lesion) -> Painted:
    """One to three dark balls in the right lobe."""
    lobe = healthy.body.liver[0]
    for number in range(1 + int(rng.integers(3))):
        radius = liver_radius(lesion) * (1.0 if number == 0 else 0.7)
        shift = rng.uniform(-0.42, 0.42, 3) * np.array(lobe.radii)
        ball = Ellipsoid(point(np.array(lobe.centre) + shift), (radius, radius, radius))
        part = healthy.canvas.grid.around(ball.extent)
        at = healthy.canvas.grid.at(part)
        opacity = fill(ball.signed(*at)) * (healthy.canvas.labels[part] == STRUCTURES["liver"])
        healthy.canvas.blend(part, opacity, 4.0)
        yield part, opacity


def _stone(rng: np.random.Generator, healthy: Scene, lesion: Lesion) -> Painted:
    """A bright ball in the middle of a kidney."""
    radius = stone_radius(lesion)
    x, y, z = healthy.body.kidneys[lesion.side].centre
    centre = (x - _SIGN[lesion.side] * 4, y, z + float(rng.uniform(-14, 14)))
    label = STRUCTURES[f"kidney_{lesion.side}"]
    yield healthy.canvas.paint(Ellipsoid(centre, (radius, radius, radius)), 1300.0, label)


def _ascites(rng: np.random.Generator, healthy: Scene, lesion: Lesion) -> Painted:
    """Free fluid along the wall of the belly, between the organs."""
    part, opacity = healthy.cavity
    signed = healthy.body.cavity.signed(*healthy.canvas.grid.at(part))
    free = (healthy.canvas.labels[part] == 0) & (healthy.canvas.hounsfield[part] < _DENSEST_BOWEL)
    drawn = opacity * free * fill(-signed - np.float32(14 + 22 * lesion.severity))
    healthy.canvas.blend(part, drawn, WATER)
    yield part, drawn


def nodule_radius(lesion: Lesion) -> float:
    """Millimetres."""
    return 11 + 12 * lesion.severity


def liver_radius(lesion: Lesion) -> float:
    """Millimetres, of the largest."""
    return 17 + 17 * lesion.severity


def stone_radius(lesion: Lesion) -> float:
    """Millimetres."""
    return 7 + 8 * lesion.severity


def _place(rng: np.random.Generator, healthy: Scene, lesion: Lesion, spread: float) -> Point:
    out, front, up = _PLACES[lesion.lobe]
    shift = np.array([out * _SIGN[lesion.side], front, up]) + rng.uniform(-spread, spread, 3)
    return point(np.array(healthy.body.lungs[lesion.side].centre) + shift)


def _airy(healthy: Scene, part: Part) -> NDArray[np.bool_]:
    """Where there is still air: neither organs over a lung, nor what was planted into it already."""
    return healthy.canvas.hounsfield[part] < -120


def _union(boxes: list[Extent]) -> Extent:
    low = np.min([box[0] for box in boxes], axis=0)
    high = np.max([box[1] for box in boxes], axis=0)
    return point(low), point(high)


_PAINTERS = {
    "Lung nodule": _nodule,
    "Consolidation": _consolidation,
    "Emphysema": _emphysema,
    "Pleural effusion": _effusion,
    "Cardiomegaly": _organ,
    "Pericardial effusion": _organ,
    "Arterial wall calcification": _calcification,
    "Liver lesion": _liver_lesion,
    "Splenomegaly": _organ,
    "Kidney stone": _stone,
    "Ascites": _ascites,
}
