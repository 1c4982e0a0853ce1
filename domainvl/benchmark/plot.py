"""`curves.png` and `curves.svg`: the headline metric over shots."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from domainvl.benchmark.cells import ZERO_SHOT, write_whole
from domainvl.benchmark.table import Row, panels, spreads

_LABELS = {"auroc_macro": "mean AUROC", "accuracy": "accuracy"}
# Okabe and Ito's colours, which colour-blind readers can tell apart, without the yellow that is lost on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7F7F7F")
_MARKERS = "osD^vP*X"
_ACROSS = 3


def draw(folder: Path, found: Sequence[Row]) -> list[Path]:
    """Draw what `results.csv` holds; an empty list when there is nothing but zero-shot."""
    shown = [panel for panel in panels(found) if any(name != ZERO_SHOT for name in spreads(found, *panel[:2]))]
    if not shown:
        return []
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(_ACROSS, len(shown))
    down = math.ceil(len(shown) / across)
    figure = Figure(figsize=(1.6 + 4.2 * across, 3.9 * down), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    styles = _styles(found)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes, shown, strict=False):
        _panel(axis, panel, found, styles)
    handles = {text: handle for axis in axes for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False)
    counts = {
        one.n for p in shown for a, own in spreads(found, *p[:2]).items() if a != ZERO_SHOT for one in own.values()
    }
    n = " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
    figure.supxlabel(f"training patients per class; bands: 95 % interval over seeds (Student's t, n = {n})", fontsize=9)
    paths = []
    for kind in ("png", "svg"):
        picture = io.BytesIO()
        figure.savefig(picture, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
        paths.append(folder / f"curves.{kind}")
        write_whole(paths[-1], picture.getvalue())
    return paths


def _styles(found: Sequence[Row]) -> dict[str, dict[str, Any]]:
    names = sorted({row["adapter"] for row in found} - {ZERO_SHOT}, key=str.casefold)
    return {
        name: {"color": _COLOURS[place % len(_COLOURS)], "marker": _MARKERS[place % len(_MARKERS)]}
        for place, name in enumerate(names)
    }


def _panel(axis: Any, panel: tuple[str, str, str], found: Sequence[Row], styles: dict[str, dict[str, Any]]) -> None:
    dataset, part, metric = panel
    adapters = spreads(found, dataset, part)
    # All data stand to the right of the largest number of shots.
    given = sorted({shots for own in adapters.values() for shots in own if shots is not None})
    last = 2 * given[-1] if given else 1
    ticks = {shots: str(shots) for shots in given}
    for name, own in adapters.items():
        if name == ZERO_SHOT:
            axis.axhline(own[None].mean, color="0.35", linestyle="--", linewidth=1.2, label=ZERO_SHOT, zorder=1)
            continue
        if None in own:
            ticks[last] = "all"
        points = sorted((last if shots is None else shots, spread) for shots, spread in own.items())
        x = [place for place, _ in points]
        style = styles[name]
        axis.plot(x, [one.mean for _, one in points], label=name, linewidth=1.8, markersize=5, **style)
        low = [one.mean if one.low is None else max(0.0, one.low) for _, one in points]
        high = [one.mean if one.high is None else min(1.0, one.high) for _, one in points]
        if len(x) > 1:
            axis.fill_between(x, low, high, color=style["color"], alpha=0.12, linewidth=0)
        else:
            axis.vlines(x, low, high, color=style["color"], linewidth=1.2)
    axis.set_xscale("log", base=2)
    axis.set_xticks(list(ticks), list(ticks.values()))
    axis.minorticks_off()
    axis.set_title(dataset if part == "all" else f"{dataset}, {part.replace('hm', 'harmonic mean')}", fontsize=11)
    axis.set_ylabel(_LABELS.get(metric, metric))
    axis.grid(axis="y", color="0.9", linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)
