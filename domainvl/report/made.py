"""What was trained, on what, by which versions, and how to do it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from domainvl.report.html import Markup, join, lead, rows, section, tag
from domainvl.report.names import counted, share
from domainvl.report.record import Record

_HASHES = {
    "split": "Split",
    "shots": "Drawn training images",
    "preset": "Preprocessing",
    "backbone": "Backbone weights",
    "bank": "Prompt bank",
}


def made(record: Record) -> Markup:
    """Method, machine, versions, hashes, command."""
    training = record.facts.get("training") or {}
    memory = record.facts.get("memory") or {}
    hashes = record.metrics["hashes"]
    named = [(_HASHES.get(name, name), _code(value)) for name, value in hashes.items()]
    return section(
        "made",
        "How it was made",
        tag("h3", "Method"),
        rows(_method(record)),
        tag("h3", "Training") if training or memory else None,
        rows(_training(training, memory)),
        tag("h3", "Versions and hashes"),
        rows(
            [
                ("Versions", ", ".join(f"{name} {number}" for name, number in record.metrics["versions"].items())),
                ("Seed", f"{record.metrics['seed']} (bootstrap: {record.metrics['bootstrap']['seed']})"),
                ("Finished", record.facts.get("finished")),
                *named,
            ]
        ),
        *_again(record, training),
    )


def _method(record: Record) -> list[tuple[str, str | None]]:
    objectives = record.setting("model", "objectives")
    losses = [
        name if spec.get("class_path") is None else f"{name} ({spec['class_path'].rpartition('.')[2]})"
        for name, spec in (objectives.items() if isinstance(objectives, Mapping) else ())
        if isinstance(spec, Mapping)
    ]
    rate = record.setting("model", "optimizer", "lr")
    optimizer = record.class_name("model", "optimizer")
    composed = record.class_name("model", "adapter") == "Compose"
    return [
        ("Task", record.class_name("model")),
        ("Backbone", _named(record, "model", "backbone")),
        ("Adapter", record.method if composed else _named(record, "model", "adapter")),
        ("Objectives", ", ".join(losses) or None),
        ("Optimiser", f"{optimizer}, learning rate {rate:g}" if optimizer and isinstance(rate, float) else optimizer),
    ]


def _named(record: Record, *path: str) -> str | None:
    """A class, its base, and its numbers and names; paths stay out of the page."""
    kind = record.class_name(*path)
    if kind is None:
        return None
    settings = record.setting(*path, "init_args")
    shown = []
    for key, value in settings.items() if isinstance(settings, Mapping) else ():
        if isinstance(value, bool | int | float) or (key in ("name", "variant") and isinstance(value, str)):
            shown.append(f"{key} {value}")
    base = record.setting(*path, "base", "name")
    if isinstance(base, str):
        shown.insert(0, base)
    return f"{kind} ({', '.join(shown)})" if shown else kind


def _training(training: Mapping[str, Any], memory: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    trained, total = training.get("trained"), training.get("parameters")
    seconds = training.get("seconds")
    process, device = memory.get("process"), memory.get("device")
    machine = training.get("device")
    if machine is not None and training.get("processes", 1) > 1:
        machine = f"{training['processes']} of {machine}"
    peak = [
        f"{size / 2**30:.1f} GiB {where}"
        for size, where in ((process, "of the process"), (device, "on the device"))
        if size
    ]
    return [
        ("Parameters", f"{trained:,} trained of {total:,} ({share(trained, total)})" if trained and total else None),
        ("Time", _time(seconds) if seconds is not None else None),
        (
            "Length",
            f"{counted(training['epochs'], 'epoch')}, {counted(training['steps'], 'step')}"
            if "epochs" in training
            else None,
        ),
        ("Memory at most", " and ".join(peak) or None),
        ("Machine", f"{machine}, precision {training.get('precision')}" if machine else None),
    ]


def _again(record: Record, training: Mapping[str, Any]) -> list[Markup]:
    if not record.config:
        return []
    learned = bool(training) or (record.run.folder / "checkpoints").is_dir()
    verb = "fit" if learned else "validate" if record.metrics["split"] == "validate" else "test"
    words = ["python", "-m", "domainvl", verb, record.run.config.name]
    if not learned and len(record.models) == 2:
        words += ["--adapter", "ADAPTER"]
    release = f"pip install domainvl=={record.metrics['versions']['domainvl']}"
    said = "The run folder's config.yaml is the whole recipe, defaults included. "
    said += "On the same data the hashes above come out again."
    return [tag("h3", "Make it again"), lead(said), tag("pre", tag("code", f"{release}\n{shlex.join(words)}"))]


def _code(value: str) -> Markup:
    return join([tag("code", value)])


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
