"""Pictures of patients, only where they were asked for: thumbnails, and where patches resemble the name of a class."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from domainvl.evaluation.metrics import Bools
from domainvl.report.html import Markup, div, figure, lead, section, tag
from domainvl.report.names import MODELS
from domainvl.report.record import Record

_CLASSES, _EACH = 8, 2
_TINT = (230, 110, 0)
_SIDE = 320


@dataclass(frozen=True, eq=False)
class Seen:
    """An image as the model took it, and what it made of it.

    Attributes:
        pixels: `[H, W]` or `[H, W, 3]`, 0 to 255.
        maps: By model and class, how much each patch resembles the class's text, `[h, w]`.
        boxes: Where a reader drew one: what for, and left, top, right, bottom as shares of the picture.
    """

    pixels: np.ndarray = field(repr=False)
    maps: Mapping[tuple[str, str], np.ndarray] = field(default_factory=dict, repr=False)
    boxes: Sequence[tuple[str, tuple[float, float, float, float]]] = field(default=(), repr=False)

    def thumbnail(self, name: str) -> Markup:
        """The picture; `name` is what a screen reader says."""
        return div("picture", self._image(name))

    def mapped(self, model: str, label: str, scale: float) -> Markup:
        """The picture with a map over it.

        Args:
            model: `zero_shot` or `adapted`.
            label: The class.
            scale: What is drawn in full colour.
        """
        values = np.clip(self.maps[model, label] / scale, 0, 1) if scale > 0 else np.zeros((1, 1))
        tint = np.broadcast_to(np.array(_TINT, dtype=np.uint8), (*values.shape, 3))
        alpha = (values * 255).round().astype(np.uint8)[..., None]
        shade = tag("img", src=_png(np.concatenate([tint, alpha], axis=-1)), alt="", class_="map")
        return div("picture", self._image(f"Map of {label}, {MODELS[model]}"), shade, self._outlines(label))

    def outlined(self, label: str) -> Markup:
        """The picture with the boxes of a class."""
        return div("picture", self._image(f"Image with {label}"), self._outlines(label))

    def _image(self, name: str) -> Markup:
        return tag("img", src=_jpeg(self.pixels), alt=name)

    def _outlines(self, label: str) -> Markup | None:
        drawn = [
            tag("rect", x=f"{x0:.3f}", y=f"{y0:.3f}", width=f"{x1 - x0:.3f}", height=f"{y1 - y0:.3f}")
            for said, (x0, y0, x1, y1) in self.boxes
            if label.lower() in said.lower()
        ]
        return tag("svg", *drawn, viewBox="0 0 1 1", preserveAspectRatio="none", aria_hidden="true") if drawn else None


def examples(record: Record) -> dict[str, list[str]]:
    """Ids of images that the last model rightly calls a class, the surest first, for some classes."""
    predictions = record.saved.classes
    if predictions is None or predictions.labels is None:
        return {}
    scores = predictions.final
    labels = np.asarray(predictions.labels)
    found: dict[str, list[str]] = {}
    for place, name in enumerate(predictions.classes):
        shows: Bools = (labels[:, place] == 1) & predictions.known[:, place] if labels.ndim == 2 else labels == place
        rows = np.flatnonzero(shows)
        rows = rows[np.argsort(-scores[rows, place], kind="stable")][:_EACH]
        if len(rows) and len(found) < _CLASSES:
            found[name] = [predictions.ids[row] for row in rows]
    return found


def maps(record: Record, seen: Mapping[str, Seen]) -> Markup | None:
    """Images with the maps of their class; None where no pictures were asked for or the tower has no patches."""
    panels = []
    for label, ids in examples(record).items():
        for image in ids:
            one = seen.get(image)
            if one is None or not one.maps:
                continue
            models = [model for model in record.models if (model, label) in one.maps]
            views = [tag("div", one.outlined(label), tag("small", "image"))]
            for model in models:
                # Each map in its own range: the two models have different temperatures.
                scale = float(one.maps[model, label].max())
                views.append(tag("div", one.mapped(model, label, scale), tag("small", MODELS[model])))
            panels.append(div("panel", tag("h4", label), div("maps", *views)))
    if not panels:
        return None
    said = "Images that show a class and that the model calls so most surely. The stronger the colour, the more a "
    said += "patch resembles the text of the class, rather than its opposite or the other classes."
    caption = "Each map has its own scale. Maps show likeness of patch and text; they explain no decision."
    if any(one.boxes for one in seen.values()):
        caption += " Outlines: boxes that a reader drew for the finding."
    return section("maps", "Where patches resemble the text", lead(said), figure(caption, div("panels", *panels)))


def shown(record: Record, seen: Mapping[str, Seen]) -> Markup | None:
    """Example images of classes where there are no maps: a tower without patches, or the middle slice of volumes."""
    if not seen or any(one.maps for one in seen.values()):
        return None
    cards = [
        div("card", seen[image].thumbnail(f"Image with {label}"), tag("b", label))
        for label, ids in examples(record).items()
        for image in ids
        if image in seen
    ]
    caption = "As the model took them; of volumes the middle slice. This image tower gives no maps of patches."
    said = lead("Images that show a class and that the model calls so most surely.")
    return section("maps", "Examples", said, figure(caption, div("cards", *cards))) if cards else None


def thumbnails(seen: Mapping[str, Seen]) -> dict[str, Markup]:
    """Pictures by image id."""
    return {name: one.thumbnail("A wrongly decided image") for name, one in seen.items()}


def _jpeg(pixels: np.ndarray) -> str:
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    return _encoded(image, "JPEG", quality=82)


def _png(pixels: np.ndarray) -> str:
    from PIL import Image

    return _encoded(Image.fromarray(pixels, "RGBA"), "PNG")


def _encoded(image: Any, kind: str, **settings: int) -> str:
    held = io.BytesIO()
    image.save(held, kind, **settings)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(held.getvalue()).decode()}"
