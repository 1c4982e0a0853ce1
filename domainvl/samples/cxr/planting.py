"""Paints findings into a healthy chest and says where they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from domainvl.samples.canvas import Box, Field, box_of, clouds, ellipse, fill, stroke
from domainvl.samples.cxr.anatomy import LUNG_AIR, Body, Chest, Shot, chest, draw_shot, heart_shape
from domainvl.samples.cxr.cases import Lesion, Study

_ZONE_HEIGHTS = {"upper": 0.24, "mid": 0.50, "lower": 0.74}


@dataclass(frozen=True)
class Radiograph:
    """One finished image.

    Attributes:
        pixels: Brightness ``[H, W]``; 0 is black and 1 is white, with some values beyond either.
        boxes: For each lesion in the image, where it lies.
        view: PA, AP or LATERAL.
    """

    pixels: Field
    boxes: tuple[tuple[Lesion, Box], ...]
    view: str


def radiograph(rng: np.random.Generator, body: Body, study: Study, view: str) -> Radiograph:
    """Draws one image of one study."""
    shot = draw_shot(rng, view)
    enlarged = study.lesions_of("Cardiomegaly")
    healthy = chest(rng, body, shot, heart_severity=enlarged[0].severity if enlarged else None)
    attenuation = healthy.attenuation.copy()
    boxes: list[tuple[Lesion, Box]] = []
    for lesion in study.lesions:
        if lesion.finding == "Cardiomegaly":
            where = fill(heart_shape(healthy.at, body, shot, lesion.severity), 0.014)
        else:
            change, where = _PAINTERS[lesion.finding](rng, healthy, lesion)
            attenuation += change
        box = box_of(where)
        if box is not None:
            boxes.append((lesion, box))
    return Radiograph(pixels=_develop(rng, attenuation, shot), boxes=tuple(boxes), view=view)


def _develop(rng: np.random.Generator, attenuation: Field, shot: Shot) -> Field:
    fine = rng.standard_normal(attenuation.shape, dtype=np.float32)
    grain = fine + 0.6 * clouds(rng, attenuation.shape, 110)
    haze = 0.02 * clouds(rng, attenuation.shape, 4)
    seen = (attenuation + haze - 0.45) * (1.05 * shot.contrast) + (0.52 + shot.brightness)
    return seen + grain * shot.noise


def _effusion(rng: np.random.Generator, healthy: Chest, lesion: Lesion) -> tuple[Field, Field]:
    """Fluid collects at the base and climbs the outer (from the side: the rear) wall."""
    half_width, top, bottom = healthy.extent
    level = bottom - (bottom - top) * (0.20 + 0.42 * lesion.severity)
    x = healthy.at.x - healthy.centres[lesion.side]
    outwards = x if healthy.lateral or lesion.side == "left" else -x
    climb = 0.16 * np.square(np.clip(outwards / half_width + 0.6, 0, 2))
    where = healthy.lungs[lesion.side] * fill(level - healthy.at.y - climb + 0.10, 0.03)
    return where * (LUNG_AIR * 0.92), where


def _pneumothorax(rng: np.random.Generator, healthy: Chest, lesion: Lesion) -> tuple[Field, Field]:
    """Free air lifts the lung off the wall: a black rim without vessels, closed by a fine white line."""
    half_width, top, bottom = healthy.extent
    gap = 0.10 + 0.30 * lesion.severity
    centre = healthy.centres[lesion.side]
    inwards = 0.0 if healthy.lateral else -np.sign(centre) * 0.10
    collapsed = ellipse(
        healthy.at,
        (centre + inwards, 0.5 * (top + bottom) + 0.55 * gap),
        (half_width * 1.22 - gap * 0.62, 0.5 * (bottom - top) * 1.12 - gap * 0.55),
    )
    lung = healthy.lungs[lesion.side]
    # Standing, air rises: the lung still touches the wall at the base.
    reached = lung * fill(healthy.at.y - (top + (bottom - top) * 0.72), 0.06)
    where, line = reached * fill(-collapsed, 0.012), reached * stroke(collapsed, 0.017)
    visible = 0.55 if healthy.lateral else 1.0
    return visible * (0.22 * line - 0.20 * where), where


def _consolidation(rng: np.random.Generator, healthy: Chest, lesion: Lesion) -> tuple[Field, Field]:
    """A fluffy opacity whose edge follows no border."""
    x, y = _place(rng, healthy, lesion, spread=0.25)
    size = 0.15 + 0.14 * lesion.severity
    ragged = ellipse(healthy.at, (x, y), (size * 1.05, size)) + 0.045 * clouds(rng, healthy.at.shape, 12)
    where = healthy.lungs[lesion.side] * fill(ragged, 0.035)
    patchy = np.clip(1 + 0.22 * clouds(rng, healthy.at.shape, 26), 0.3, 1.6)
    return where * patchy * (0.20 + 0.10 * lesion.severity), where


def _nodule(rng: np.random.Generator, healthy: Chest, lesion: Lesion) -> tuple[Field, Field]:
    """One small round opacity with a clear edge."""
    x, y = _place(rng, healthy, lesion, spread=0.5)
    radius = 0.065 + 0.055 * lesion.severity
    where = healthy.lungs[lesion.side] * fill(ellipse(healthy.at, (x, y), (radius, radius)), 0.010)
    return where * (0.30 + 0.06 * lesion.severity), where


def _place(rng: np.random.Generator, healthy: Chest, lesion: Lesion, *, spread: float) -> tuple[float, float]:
    half_width, top, bottom = healthy.extent
    x = healthy.centres[lesion.side] + float(rng.uniform(-spread, spread)) * half_width
    if not healthy.lateral:
        # The outer half of a lung is clear of heart and hilum; the inner half would hide half of the lesions.
        x += np.sign(healthy.centres[lesion.side]) * (0.15 if lesion.zone != "upper" else -0.08) * half_width
    height = _ZONE_HEIGHTS[lesion.zone] + float(rng.uniform(-0.05, 0.05))
    return float(x), top + (bottom - top) * height


_PAINTERS = {
    "Pleural Effusion": _effusion,
    "Pneumothorax": _pneumothorax,
    "Consolidation": _consolidation,
    "Lung Lesion": _nodule,
}
