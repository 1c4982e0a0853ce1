"""`results.csv`, and the tables on the terminal: mean and 95 % interval over seeds, per adapter and number of shots."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from domainvl.benchmark.cells import ZERO_SHOT, write_whole
from domainvl.evaluation.protocols import Harmonic, Spread, harmonic_mean

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = (
    "dataset",
    "protocol",
    "part",
    "adapter",
    "shots",
    "seed",
    "metric",
    "value",
    "low",
    "high",
    "images",
    "patients",
    "parameters",
    "split_hash",
    "shots_hash",
    "preset_hash",
    "backbone_hash",
    "seconds",
    "cell",
)
Row = dict[str, Any]


def headline(multilabel: bool) -> str:
    """The metric that is printed and drawn: the field's accuracy, or the mean AUROC of findings that co-occur."""
    return "auroc_macro" if multilabel else "accuracy"


def rows(cells: Iterable[Mapping[str, Any]]) -> list[Row]:
    """One row per finished cell, part and metric; intervals are over patients.

    Base-to-novel cells have a row `hm` per metric more, their harmonic mean, without an interval.
    """
    found: list[Row] = []
    for cell in cells:
        model = "zero_shot" if cell["adapter"] == ZERO_SHOT else "adapted"
        shared = {name: cell[name] for name in ("dataset", "protocol", "adapter", "shots", "seed", "seconds", "cell")}
        shared["parameters"] = 0 if cell["trained"] is None else cell["trained"].get("parameters")
        hashes = {f"{name}_hash": cell["hashes"].get(name) for name in ("shots", "preset", "backbone")}
        for name, part in cell["parts"].items():
            if model not in part:
                continue  # an adapter that cannot score these classes
            about = {"part": name, "split_hash": part["split"], **part["n"]}
            found += [
                {
                    **shared,
                    **hashes,
                    **about,
                    "metric": metric,
                    **interval,
                    "headline": metric == headline(cell["multilabel"]),
                }
                for metric, interval in part[model].items()
            ]
        parts = cell["parts"]
        if cell["protocol"] == "base-to-novel" and all(model in parts[name] for name in ("base", "novel")):
            for metric, base in parts["base"][model].items():
                pair = base["value"], parts["novel"][model][metric]["value"]
                if metric != "calibration_error" and None not in pair:
                    value = {"metric": metric, "value": harmonic_mean(*pair), "low": None, "high": None}
                    about = {"part": "hm", "split_hash": parts["base"]["split"], "images": None, "patients": None}
                    found.append(
                        {**shared, **hashes, **about, **value, "headline": metric == headline(cell["multilabel"])}
                    )
    return found


def write(path: Path, found: Sequence[Row]) -> None:
    """Write `results.csv`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    write_whole(path, text.getvalue())


def check_same_data(cells: Iterable[Mapping[str, Any]]) -> None:
    """Say on standard error where cells that stand beside each other saw different data."""
    seen: dict[tuple[Any, ...], str] = {}
    for cell in cells:
        keys = {(cell["dataset"], "split", "test split"): cell["hashes"]["split"]}
        if "shots" in cell["hashes"]:
            drawn = f"{cell['shots']} shots of seed {cell['seed']}"
            keys[(cell["dataset"], "shots", drawn)] = cell["hashes"]["shots"]
        for key, value in keys.items():
            if seen.setdefault(key, value) != value:
                print(
                    f"warning: {key[0]}: {key[2]} is not the same in all cells ({seen[key]} and {value}); the data "
                    "changed between runs, or an adapter's recipe changes them. See results.csv",
                    file=sys.stderr,
                )


def averaged(found: Sequence[Row]) -> list[Row]:
    """Headline values with rows of their mean over data sets, where there are several and all have the cell."""
    shown = [row for row in found if row["headline"] and row["value"] is not None]
    datasets = {row["dataset"] for row in shown}
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in shown:
        key = tuple(row[name] for name in ("part", "adapter", "shots", "seed", "metric"))
        groups.setdefault(key, []).append(row)
    means = [
        {
            **own[0],
            "dataset": f"mean of {len(own)} data sets",
            "value": sum(row["value"] for row in own) / len(own),
            "low": None,
            "high": None,
        }
        for (part, *_), own in groups.items()
        # The harmonic mean over data sets has a rule of its own.
        if len(datasets) > 1 and {row["dataset"] for row in own} == datasets and part != "hm"
    ]
    return [*shown, *means]


def spreads(found: Sequence[Row], dataset: str, part: str) -> dict[str, dict[int | None, Spread]]:
    """Headline values over seeds by adapter and shots; zero-shot is one value."""
    values: dict[str, dict[int | None, list[float]]] = {}
    for row in found:
        if row["headline"] and (row["dataset"], row["part"]) == (dataset, part) and row["value"] is not None:
            values.setdefault(row["adapter"], {}).setdefault(row["shots"], []).append(row["value"])
    return {
        adapter: {shots: Spread.of(own) for shots, own in sorted(by_shots.items(), key=lambda item: item[0] or 0)}
        for adapter, by_shots in sorted(values.items(), key=lambda item: item[0] != ZERO_SHOT)
    }


def panels(found: Sequence[Row]) -> list[tuple[str, str, str]]:
    """(data set, part, metric) of every table and every plot."""
    return list(dict.fromkeys((row["dataset"], row["part"], row["metric"]) for row in found if row["headline"]))


def show(found: Sequence[Row], console: Console | None = None) -> None:
    """Print a table per data set and part, and the harmonic means of base-to-novel over data sets."""
    from rich.console import Console

    if console is None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=120)
    fewest = set()
    single, found = found, averaged(found)
    for dataset, part, metric in panels(found):
        console.print()
        about = f"{dataset}: {metric}" if part == "all" else f"{dataset}, {_called(part)}: {metric}"
        adapters = spreads(found, dataset, part)
        cells = {name: {s: _cell(one) for s, one in own.items()} for name, own in adapters.items() if name != ZERO_SHOT}
        fewest |= {one.n for name, own in adapters.items() if name != ZERO_SHOT for one in own.values()}
        _print(console, about, cells, _trained(found))
        for row in found:
            if row["headline"] and (row["dataset"], row["part"], row["adapter"]) == (dataset, part, ZERO_SHOT):
                text = f"  zero-shot {row['value']:.3f}"
                if row["low"] is not None:
                    text += f" ({row['low']:.3f}, {row['high']:.3f} over patients)"
                console.print(text, highlight=False)
    if any(row["part"] == "hm" for row in found):
        _show_harmonic(single, console)
    console.print()
    if fewest:
        n = f"n = {fewest.pop()}" if len(fewest) == 1 else f"n = {min(fewest)} to {max(fewest)}, printed where fewer"
        console.print(f"Mean and 95 % interval over seeds by Student's t, {n}.", highlight=False)


def _show_harmonic(found: Sequence[Row], console: Console) -> None:
    """The rule and the other reading, side by side and labelled."""
    names = {"rule": "harmonic mean of the mean base and the mean novel value over data sets (the rule)"}
    names["other"] = "mean over data sets of their own harmonic means (other papers)"
    cells: dict[str, dict[str, dict[int | None, str]]] = {"rule": {}, "other": {}}
    keys = dict.fromkeys((row["adapter"], row["shots"]) for row in found if row["part"] == "hm")
    count = 0
    for adapter, shots in keys:
        pairs: dict[str, dict[str, list[float]]] = {}
        for row in found:
            if row["headline"] and (row["adapter"], row["shots"]) == (adapter, shots) and row["part"] != "hm":
                pairs.setdefault(row["dataset"], {}).setdefault(row["part"], []).append(row["value"])
        whole = [(Spread.of(p["base"]).mean, Spread.of(p["novel"]).mean) for p in pairs.values() if len(p) == 2]
        harmonic = Harmonic.of(whole)
        count = max(count, harmonic.datasets)
        cells["rule"].setdefault(adapter, {})[shots] = f"{harmonic.of_means:.3f}"
        cells["other"].setdefault(adapter, {})[shots] = f"{harmonic.mean_of:.3f}"
    for key, title in names.items():
        console.print()
        zero = cells[key].pop(ZERO_SHOT, {})
        _print(console, f"{count} data set{'s' if count > 1 else ''}: {title}", cells[key])
        for value in zero.values():
            console.print(f"  zero-shot {value}", highlight=False)


def _trained(found: Sequence[Row]) -> dict[str, str]:
    """Trained parameters by adapter; some grow with classes or shots."""
    counts: dict[str, set[int]] = {}
    for row in found:
        if row.get("parameters") is not None:
            counts.setdefault(row["adapter"], set()).add(row["parameters"])
    return {
        adapter: f"{min(own):,}" if len(own) == 1 else f"{min(own):,} to {max(own):,}"
        for adapter, own in counts.items()
    }


def _print(
    console: Console,
    title: str,
    cells: Mapping[str, Mapping[int | None, str]],
    trained: Mapping[str, str] | None = None,
) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console.print(Text(title, style="bold"))
    columns = sorted({shots for own in cells.values() for shots in own}, key=lambda shots: shots or 0)
    if not columns:
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, highlight=False)
    table.add_column("", overflow="fold")
    for shots in columns:
        table.add_column(_shots(shots), no_wrap=True)
    if trained:
        table.add_column("parameters", justify="right", no_wrap=True)
    for adapter, own in cells.items():
        counts = [Text(trained.get(adapter, "-"))] if trained else []
        table.add_row(Text(adapter), *(Text(own.get(shots, "-")) for shots in columns), *counts)
    console.print(table)


def _cell(spread: Spread) -> str:
    if spread.high is None:
        return f"{spread.mean:.3f} n=1"
    return f"{spread.mean:.3f} ±{spread.high - spread.mean:.3f}"


def _shots(shots: int | None) -> str:
    return "all data" if shots is None else f"{shots} shot{'s' if shots > 1 else ''}"


def _called(part: str) -> str:
    return {"hm": "harmonic mean of base and novel"}.get(part, part)
