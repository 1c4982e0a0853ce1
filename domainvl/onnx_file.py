"""The image tower with its adapter and the class texts in one ONNX file: pixels in, class scores out."""

from __future__ import annotations

import gc
import json
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from domainvl.inputs import Pictures
from domainvl.model import Model

FILE = "model.onnx"
_CLOSE = 1e-4
_OPSET = 18


class _Scored(nn.Module):
    """uint8 pixels `[B, 3, S, S]` to class scores and probabilities, both `[B, C]`."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.backbone, self.adapter = model.backbone, model.adapter

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model.logits(pixels)
        return logits, self.model.scores.probability(logits)


def write_onnx(model: Model, folder: Path) -> float:
    """Write `model.onnx` and compare what onnxruntime makes of it with torch.

    Input `pixels` are uint8 `[B, 3, S, S]`, resized and cropped as the file's metadata say (`preset`); normalisation is
    inside. Outputs are `logits` and `probabilities` `[B, C]`; metadata `classes` name the columns.

    Args:
        model: A loaded adapter on the CPU, with `speed=PLAIN`.
        folder: Where to.

    Returns:
        The largest difference of a probability that was found.
    """
    name = model.card.adapter
    if not isinstance(model.inputs, Pictures):
        raise ValueError(
            f"--onnx: this {name} adapter takes {model.inputs.noun}s, and only models of pictures are written; export "
            "it without --onnx"
        )
    if not model.classes:
        raise ValueError(f"--onnx: this {name} adapter names no classes to score; export it without --onnx")
    if model.adapter.text_per_image:
        raise ValueError(
            f"--onnx: {name} makes other class texts for every image, so no matrix of them can be written into a file; "
            "export it without --onnx"
        )
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"--onnx needs {error.name}: pip install 'domainvl[onnx]'") from None
    path, scored = folder / FILE, _Scored(model).eval()
    # Not zeros and not one image: a tracer that takes a size for a constant does so with ones.
    example = _pixels(model, 2)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                scored,
                (example,),
                dynamo=True,
                opset_version=_OPSET,
                input_names=["pixels"],
                output_names=["logits", "probabilities"],
                dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise ValueError(f"--onnx: {name} cannot be written as ONNX ({reason}); export it without --onnx") from None
    if program is None:
        raise RuntimeError("--onnx: this torch gives no ONNX program; torch 2.8 and later do")
    written = program.model_proto
    facts = {"classes": model.classes, "preset": asdict(model.preset), "backbone": model.card.backbone.as_dict()}
    onnx.helper.set_model_props(written, {key: json.dumps(value) for key, value in facts.items()})
    onnx.save(written, path)
    # Tracing makes classes of the names of ours, which a recipe read later in this process would find twice.
    del program
    gc.collect()
    return _checked(model, scored, path)


def _checked(model: Model, scored: nn.Module, path: Path) -> float:
    """The largest difference of a probability between torch and onnxruntime; the file goes where it is too large."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for count in (1, 3):
        pixels = _pixels(model, count)
        with torch.no_grad():
            wanted = [value.numpy() for value in scored(pixels)]
        found = session.run(None, {"pixels": pixels.numpy()})
        scale = max(1.0, float(np.abs(wanted[0]).max()))
        worst = max(worst, float(np.abs(found[1] - wanted[1]).max()), float(np.abs(found[0] - wanted[0]).max()) / scale)
    if not worst <= _CLOSE:
        path.unlink()
        raise RuntimeError(
            f"--onnx: onnxruntime and torch differ by {worst:.1e} on {model.card.adapter}, more than {_CLOSE:.0e}; no "
            "file was written"
        )
    return worst


def _pixels(model: Model, count: int) -> Tensor:
    shape = (count, *model.preset.shape)
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
