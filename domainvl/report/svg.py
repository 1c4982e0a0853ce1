"""Small plots as inline SVG. Colours are classes of the style sheet, so that both themes have their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from domainvl.evaluation.metrics import Floats
from domainvl.report.html import Markup, tag

_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 12.0, 10.0, 38.0
_NEAR = 0.6


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        label: What it measures.
        ticks: Where numbers stand; the first and the last are its ends.
        form: How a number is written.
    """

    label: str
    ticks: tuple[float, ...]
    form: str = "{:g}"

    @property
    def low(self) -> float:
        """The lower end."""
        return self.ticks[0]

    @property
    def high(self) -> float:
        """The upper end."""
        return self.ticks[-1]

    @classmethod
    def around(cls, label: str, low: float, high: float, *, whole: bool = False) -> Axis:
        """Round numbers around values.

        Args:
            label: What it measures.
            low: The smallest value.
            high: The largest value.
            whole: Whether only whole numbers make sense.
        """
        if high <= low:
            low, high = (low - 0.5, high + 0.5) if not whole else (low - 1, high + 1)
        step = _round_step((high - low) / 4)
        step = max(1.0, step) if whole else step
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return cls(label, tuple(step * place for place in range(first, last + 1)), f"{{:,.{digits}f}}")


SHARE = (0.0, 0.5, 1.0)


class Plot:
    """A frame with two axes, drawn on in its own units.

    Args:
        title: What a screen reader says it is.
        x: Horizontal axis.
        y: Vertical axis.
        width: In units of about a pixel.
        height: Likewise.
    """

    def __init__(self, title: str, x: Axis, y: Axis, width: float = 320, height: float = 250) -> None:
        self.title, self.x, self.y, self.width, self.height = title, x, y, width, height
        self._drawn: list[Markup] = []

    def line(self, x: Sequence[float] | Floats, y: Sequence[float] | Floats, kind: str) -> None:
        """A line through points."""
        self._drawn.append(tag("path", d=_path(self._points(x, y)), class_=f"line {kind}"))

    def band(self, x: Floats, low: Floats, high: Floats, kind: str) -> None:
        """The area between two lines."""
        edge = self._points(np.concatenate([x, x[::-1]]), np.concatenate([low, high[::-1]]))
        self._drawn.append(tag("path", d=f"{_path(edge)}Z", class_=f"band {kind}"))

    def dots(
        self, x: Sequence[float] | Floats, y: Sequence[float] | Floats, kind: str, radius: float | Floats = 3
    ) -> None:
        """Points."""
        sizes = np.broadcast_to(np.asarray(radius, dtype=np.float64), np.shape(x))
        for (across, down), size in zip(self._points(x, y), sizes, strict=True):
            circle = tag("circle", cx=_short(across), cy=_short(down), r=_short(float(size)), class_=f"dot {kind}")
            self._drawn.append(circle)

    def bars(self, x: Floats, y: Floats, half: float, kind: str) -> None:
        """Upright bars from the lower end of the axis, `half` wide to both sides."""
        for at, top in zip(x, y, strict=True):
            (left, upper), (right, lower) = self._points([at - half, at + half], [top, self.y.low])
            size = {"width": _short(right - left), "height": _short(max(0.0, lower - upper))}
            self._drawn.append(tag("rect", x=_short(left), y=_short(upper), class_=f"bar {kind}", **size))

    def svg(self) -> Markup:
        """The picture."""
        return tag(
            "svg",
            tag("title", self.title),
            self._axes(),
            tag("g", *self._drawn),
            viewBox=f"0 0 {self.width:g} {self.height:g}",
            role="img",
            aria_label=self.title,
            class_="plot",
        )

    def _axes(self) -> Markup:
        right, bottom = self.width - _RIGHT, self.height - _BOTTOM
        parts = []
        for value in self.y.ticks:
            _, down = self._points([self.x.low], [value])[0]
            parts.append(tag("line", x1=_LEFT, x2=right, y1=_short(down), y2=_short(down), class_="grid"))
            parts.append(_text(self.y.form.format(value), _LEFT - 6, down + 3.5, "end"))
        for value in self.x.ticks:
            across, _ = self._points([value], [self.y.low])[0]
            parts.append(tag("line", x1=_short(across), x2=_short(across), y1=bottom, y2=bottom + 4, class_="axis"))
            parts.append(_text(self.x.form.format(value), across, bottom + 16, "middle"))
        parts.append(tag("line", x1=_LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"))
        parts.append(_text(self.x.label, (_LEFT + right) / 2, self.height - 5, "middle", "label"))
        if self.y.label:
            parts.append(_text(self.y.label, 11, (_TOP + bottom) / 2, "middle", "label", turned=True))
        return tag("g", *parts)

    def _points(self, x: Sequence[float] | Floats, y: Sequence[float] | Floats) -> list[tuple[float, float]]:
        across = (np.asarray(x, dtype=np.float64) - self.x.low) / (self.x.high - self.x.low)
        up = (np.asarray(y, dtype=np.float64) - self.y.low) / (self.y.high - self.y.low)
        left = _LEFT + across * (self.width - _LEFT - _RIGHT)
        down = self.height - _BOTTOM - up * (self.height - _TOP - _BOTTOM)
        return list(zip(left.tolist(), down.tolist(), strict=True))


def strip(values: Sequence[tuple[str, float, float | None, float | None]], low: float, high: float) -> Markup:
    """Values with their intervals on one line, for a cell of a table.

    Args:
        values: Class of the style sheet, value, ends of its interval.
        low: The left end.
        high: The right end.
    """
    width, height = 132.0, 7.0 * len(values) + 7

    def place(value: float) -> float:
        return 4 + (width - 8) * (min(max(value, low), high) - low) / (high - low)

    parts = []
    if low < 0.5 < high:
        parts.append(tag("line", x1=place(0.5), x2=place(0.5), y1=0, y2=height, class_="grid"))
    for row, (kind, value, start, end) in enumerate(values):
        down = 7.0 * row + 7
        if start is not None and end is not None:
            ends = {"x1": _short(place(start)), "x2": _short(place(end))}
            parts.append(tag("line", y1=down, y2=down, class_=f"whisker {kind}", **ends))
        parts.append(tag("circle", cx=_short(place(value)), cy=down, r=3, class_=f"dot {kind}"))
    return tag("svg", *parts, viewBox=f"0 0 {width:g} {height:g}", class_="strip", aria_hidden="true")


def _text(text: str, x: float, y: float, anchor: str, kind: str = "tick", turned: bool = False) -> Markup:
    turn = f"rotate(-90 {_short(x)} {_short(y)})" if turned else None
    return tag("text", text, x=_short(x), y=_short(y), text_anchor=anchor, class_=kind, transform=turn)


def _path(points: Sequence[tuple[float, float]]) -> str:
    """Points as a path, without those too near to see: a large data set has a corner for each row."""
    kept: list[tuple[float, float]] = []
    for place, point in enumerate(points):
        if not kept or place == len(points) - 1 or math.dist(kept[-1], point) >= _NEAR:
            kept.append(point)
    return "M" + "L".join(f"{_short(across)} {_short(down)}" for across, down in kept)


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _round_step(step: float) -> float:
    size = 10.0 ** math.floor(math.log10(step))
    return next(size * times for times in (1, 2, 5, 10) if size * times >= step * 0.999)
