"""The two sides of `fewshot.py`, each in a process of its own: the authors' trainer and our task.

Both take the same random ViT-B/16 (tests/reference/clip_weights.py), the same images, the same class names, and start
from the same trainable numbers: the reference draws them and writes them down, ours reads them.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import re
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = "a centered satellite photo of {}."
NAMES = ["Annual Crop Land", "Forest", "Herbaceous Vegetation Land", "Highway or Road", "Industrial Buildings"]
KINDS = ["dry", "wet", "young", "old", "open", "dense", "burnt", "frozen", "flooded", "terraced"]
PLACES = ["forest", "meadow", "crop land", "river bank", "orchard", "quarry", "harbour", "parking lot", "sea shore"]
PLACES += ["residential area"]
METHODS = {"MMRL": "mmrl", "MMRL++": "mmrlpp"}


@dataclass(frozen=True)
class Setting:
    """One cell of the benchmark.

    Attributes:
        method: MMRL or MMRL++.
        classes: Number of classes.
        batch: Images per step.
        steps: Steps per epoch.
        epochs: Epochs, the first of which is not measured.
        folder: Where the reference writes its start.
        tiny: Four small blocks in place of a ViT-B/16, to see that everything runs.
    """

    method: str
    classes: int
    batch: int
    steps: int
    epochs: int
    folder: Path
    tiny: bool = False

    @property
    def blocks(self) -> int:
        """Blocks of either tower."""
        return 4 if self.tiny else 12

    @property
    def size(self) -> int:
        """Side of an image."""
        return 64 if self.tiny else 224

    @property
    def first(self) -> int:
        """First block that sees representation tokens, from 0."""
        return 1 if self.tiny else 5

    @property
    def start(self) -> Path:
        """The trainable numbers that all sides start from."""
        return self.folder / "start.npz"

    @property
    def names(self) -> list[str]:
        """Class names."""
        many = [f"{kind} {place}" for kind in KINDS for place in PLACES]
        return NAMES[: self.classes] if self.classes <= len(NAMES) else many[: self.classes]

    def images(self) -> tuple[Tensor, Tensor]:
        """All training images, normalised, and their labels."""
        draw = torch.Generator().manual_seed(1)
        count = self.batch * self.steps
        return torch.randn(count, 3, self.size, self.size, generator=draw), torch.arange(count) % self.classes


def weights(setting: Setting) -> tuple[Any, Any, dict[str, Tensor]]:
    """The module that draws weights, the shape of the model, and its weights."""
    sys.path.insert(0, str(ROOT / "tests" / "reference"))
    import clip_weights

    widths = (
        {"embed": 64, "v_width": 128, "t_width": 128}
        if setting.tiny
        else {"embed": 512, "v_width": 768, "t_width": 512}
    )
    arch = clip_weights.Arch(image=setting.size, patch=16, v_layers=setting.blocks, t_layers=setting.blocks, **widths)
    return clip_weights, arch, clip_weights.clip_state_dict(arch, 0)


def serve(side: Callable[..., Iterator[float]], arguments: tuple[Any, ...], pipe: Connection) -> None:
    """Run a side step by step as the other end of the pipe asks, and say what each step took."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["DOMAINVL_CACHE"] = cache
        side(*arguments, Gate(pipe))
        pipe.close()


class Gate:
    """Lets a step run when it is its turn, and measures it."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.epoch = 0.0

    def ready(self) -> None:
        """Set-up is over; memory counts from here."""
        # glibc keeps what set-up gave back.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        self.pipe.send("ready")

    def wait(self) -> None:
        """Wait for the turn."""
        self.pipe.recv()
        self.start = time.process_time()

    def done(self, loss: float) -> None:
        """Report a step."""
        peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
        took = time.process_time() - self.start
        self.pipe.send({"step": took, "loss": loss, "peak": int(peak[1]) / 2**10 if peak else float("nan")})

    def begin_epoch(self) -> None:
        """An epoch starts."""
        self.epoch = time.process_time()

    def end_epoch(self) -> None:
        """Report an epoch."""
        self.pipe.send({"epoch": time.process_time() - self.epoch})


def reference(checkout: Path, setting: Setting, gate: Gate) -> None:
    """The authors' own `build_model` and `forward_backward`, on the CPU."""
    _, _, state = weights(setting)
    file = setting.folder / "clip.pt"
    torch.save(state, file)
    module = import_reference(checkout, METHODS[setting.method], file)
    trainer = module.MMRLpp() if setting.method == "MMRL++" else module.MMRL()
    trainer.cfg = config(setting)
    trainer.device = torch.device("cpu")
    trainer.dm = _tree(dataset=_tree(classnames=setting.names))
    torch.manual_seed(7)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        trainer.build_model()
    file.unlink()
    del state
    trainer.num_batches = setting.steps
    trained = {name: tensor for name, tensor in trainer.model.named_parameters() if tensor.requires_grad}
    np.savez(setting.start, **{name: tensor.detach().numpy() for name, tensor in trained.items()})
    images, labels = setting.images()
    trainer.model.train()
    gate.ready()
    for _ in range(setting.epochs):
        gate.begin_epoch()
        for trainer.batch_idx in range(setting.steps):
            part = slice(trainer.batch_idx * setting.batch, (trainer.batch_idx + 1) * setting.batch)
            gate.wait()
            out = trainer.forward_backward({"img": images[part], "label": labels[part]})
            gate.done(out["loss"])
        gate.end_epoch()


def import_reference(checkout: Path, name: str, file: Path) -> Any:
    """Import `trainers/<name>.py` of a checkout, with empty stand-ins for Dassl and for the GPU.

    Nothing of the authors' is written here. What they import from Dassl and what a step does not use is an empty
    function; `.cuda()` gives the tensor itself; the download of CLIP's weights gives our file.
    """

    class TrainerX:
        def register_model(self, *arguments: Any) -> None: ...

        def update_lr(self) -> None: ...

    def optimizer(model: torch.nn.Module, _: Any) -> torch.optim.Optimizer:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, lr=1e-3, weight_decay=5e-4)

    def share_right(scores: Tensor, label: Tensor) -> list[Tensor]:
        return [(scores.argmax(-1) == label).float().mean() * 100]

    nothing = lambda *arguments, **named: None  # noqa: E731
    registry = types.SimpleNamespace(register=lambda: lambda kind: kind)
    stand_ins = {
        "dassl": {},
        "dassl.engine": {"TRAINER_REGISTRY": registry, "TrainerX": TrainerX},
        "dassl.metrics": {"compute_accuracy": share_right},
        "dassl.utils": {"load_pretrained_weights": nothing, "load_checkpoint": nothing},
        "dassl.optim": {"build_optimizer": optimizer, "build_lr_scheduler": nothing},
    }
    for key, content in stand_ins.items():
        sys.modules[key] = types.ModuleType(key)
        vars(sys.modules[key]).update(content)
    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *arguments, **named: self  # type: ignore[method-assign]
    sys.path.insert(0, str(checkout))
    from importlib import import_module

    clip = import_module("clip.clip")
    clip._download = lambda *arguments, **named: str(file)
    torch.jit.load = _not_an_archive
    return import_module(f"trainers.{name}")


def _not_an_archive(*arguments: Any, **named: Any) -> None:
    raise RuntimeError("the weights are a state dict")


def config(setting: Setting) -> Any:
    """What their configuration files hold, as far as a step reads it."""
    layers = list(range(setting.first + 1, setting.blocks + 1))
    own = {"ALPHA": 0.7, "REG_WEIGHT": 1.0, "N_REP_TOKENS": 5, "REP_LAYERS": layers, "PREC": "fp32"}
    own |= {"REP_DIM": 512, "BETA": 0.9, "PROJ_LORA_DIM": 64, "RES_LORA_DIM": 4}
    key = "MMRLpp" if setting.method == "MMRL++" else "MMRL"
    return _tree(
        MODEL=_tree(BACKBONE=_tree(NAME="ViT-B/16"), INIT_WEIGHTS=""),
        DATASET=_tree(NAME="EuroSAT"),
        INPUT=_tree(SIZE=(setting.size, setting.size)),
        OPTIM=None,
        TRAINER=_tree(**{key: _tree(**own)}),
    )


def _tree(**values: Any) -> Any:
    return types.SimpleNamespace(**values)


def ours(speed: Any, setting: Setting, gate: Gate) -> None:
    """Our task in Lightning's own training loop."""
    from fewshot_ours import train

    train(speed, setting, gate)
