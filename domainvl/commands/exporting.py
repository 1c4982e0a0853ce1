"""The heavy half of `export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from domainvl import hub
from domainvl.console.arguments import Arguments
from domainvl.console.parts import run_backbone
from domainvl.console.quiet import quieten
from domainvl.console.session import clear_errors
from domainvl.errors import CommandError
from domainvl.runs import Run


def export(arguments: Arguments) -> int:
    """Write the folder, then what goes beside it, then push it.

    Args:
        arguments: The command line; its two words are the run and the folder.
    """
    quieten()
    run, out = Run(arguments.recipes[0]), arguments.recipes[1]
    if not run.adapter.is_dir():
        raise CommandError(
            f"{run.folder} has no adapter", todo="give the folder of a finished fit, e.g. runs/cxr/1", status=1
        )
    with clear_errors():
        card = hub.read_adapter_card(run.adapter)
        licence = arguments.option("--licence") or hub.base_licence(card)
        hub.copy_adapter(run.adapter, out, _read(run.metrics), _read(run.facts), licence)
        print(f"wrote {out}: {card.adapter} on {card.backbone.name}, {len(card.classes)} classes")
        if licence is None:
            print("the licence of the model below is not known here: give --licence before you share the folder")
        _beside(arguments, run, out)
        name = arguments.option("--push-to-hub")
        if name is not None:
            print(f"pushed: {hub.push(out, name, private='--public' not in arguments.options)}")
    return 0


def _beside(arguments: Arguments, run: Run, out: Path) -> None:
    """The merged model and the ONNX file, where they are asked for."""
    if not {"--merge", "--onnx"} & set(arguments.options):
        return
    from domainvl.model import Model
    from domainvl.onnx_file import FILE, write_onnx
    from domainvl.speed import PLAIN

    allow = arguments.options.get("--allow-import", [])
    model = Model(out, run_backbone(run, allow), "cpu", PLAIN)
    if "--merge" in arguments.options:
        worst = hub.write_merged(model.adapter, model.backbone, run_backbone(run, allow), out / "merged")
        print(f"wrote {out / 'merged'}: features differ by at most {worst:.1e}")
    if "--onnx" in arguments.options:
        worst = write_onnx(model, out)
        print(f"wrote {out / FILE}: onnxruntime and torch differ by at most {worst:.1e}")


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
