"""Our side of `fewshot.py`: Classification with MMRL or MMRL++ in Lightning's training loop."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import open_clip
import torch
from fewshot_sides import TEMPLATE, Gate, Setting, weights
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from domainvl.adapters import MMRL, MMRLpp
from domainvl.backbones.base import Backbone, BackboneSpec
from domainvl.data.preset import Preset
from domainvl.data.prompts import PromptSet
from domainvl.data.views import Pictures
from domainvl.features import TextInputs
from domainvl.objectives import ClassCrossEntropy, FrozenCosine
from domainvl.speed import Speed
from domainvl.tasks import Classification
from domainvl.towers.hf_clip import HFClipImage, HFClipText


class RandomClip(Backbone):
    """A CLIP with random weights."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.preset = Preset("benchmark", setting.size)
        maker, arch, state = weights(setting)
        self.model = maker.hf_model(arch, state)
        self.image, self.text = HFClipImage(self.model), HFClipText(self.model)
        self.logit_scale, self.logit_bias = self.model.logit_scale, None
        self._tokenize = open_clip.get_tokenizer("ViT-B-16")

    @property
    def library(self) -> torch.nn.Module:
        """See `Backbone.library`."""
        return self.model

    def tokenize(self, texts: Sequence[str]) -> TextInputs:
        """CLIP's own ids, cut behind the longest text."""
        ids = self._tokenize(list(texts))
        length = ids.argmax(-1) + 1
        keep = torch.arange(ids.shape[1]) < length[:, None]
        return TextInputs(ids[:, : length.max()], keep[:, : length.max()])

    def spec(self) -> BackboneSpec:
        """See `Backbone.spec`; the cache of one run holds one model."""
        return BackboneSpec("RandomClip", "random", None, "0" * 12, self.preset.digest)


class Images(LightningDataModule):
    """The benchmark's images in memory, every one a picture of its own."""

    multilabel = False

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting, self.classes, self.prompts = setting, setting.names, PromptSet([TEMPLATE])

    def train_dataloader(self) -> DataLoader[Any]:
        """The images in the reference's order."""
        rows = [
            {"image": image, "label": label, "index": index, "view": 0}
            for index, (image, label) in enumerate(zip(*self.setting.images(), strict=True))
        ]
        return DataLoader(rows, batch_size=self.setting.batch)  # type: ignore[arg-type]

    def pictures(self) -> Pictures:
        """Every image stays as it is."""
        return Pictures("benchmark", 1, np.arange(self.setting.batch * self.setting.steps))


class Turns(Callback):
    """Takes a step when it is this side's turn."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def on_train_epoch_start(self, *_: Any) -> None:
        """Begin to measure; set-up ends with the first epoch's start."""
        if self.gate.epoch == 0.0:
            self.gate.ready()
        self.gate.begin_epoch()

    def on_train_batch_start(self, *_: Any) -> None:
        """Wait for the turn."""
        self.gate.wait()

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: dict[str, Tensor], *_: Any) -> None:
        """Report the step; its optimiser has run."""
        self.gate.done(float(outputs["loss"]))

    def on_train_epoch_end(self, *_: Any) -> None:
        """Report the epoch."""
        self.gate.end_epoch()


def train(speed: Speed, setting: Setting, gate: Gate) -> None:
    """As many epochs as the reference trains."""
    method = MMRLpp if setting.method == "MMRL++" else MMRL
    adapter = method(tokens=5, width=512, first_block=setting.first, alpha=0.7, scale=100.0)
    objectives = {
        "class_head": ClassCrossEntropy("image@class.logits", weight=0.7),
        "representation_head": ClassCrossEntropy("image@rep.logits", weight=0.3),
        "stay_image": FrozenCosine("image"),
        "stay_text": FrozenCosine("text"),
    }
    optimizer = partial(torch.optim.AdamW, lr=1e-3, weight_decay=5e-4)
    task = Classification(RandomClip(setting), adapter, objectives, optimizer, speed=speed)  # type: ignore[arg-type]
    if setting.start.exists():
        with np.load(setting.start) as file:
            start = {_ours(name): torch.from_numpy(file[name]) for name in file.files}
        task.adopt(adapter, start, setting.names)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=setting.epochs,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=folder,
            callbacks=[Turns(gate)],
        )
        trainer.fit(task, Images(setting))


def _ours(name: str) -> str:
    """The authors' name of a trainable tensor as we call it."""
    name = name.removeprefix("representation_learner.").removeprefix("image_encoder.")
    if name == "compound_rep_tokens":
        return "space"
    if name in ("proj_rep", "A", "B"):
        return "head" if name == "proj_rep" else f"residual.{name}"
    side = "image" if "r2v" in name else "text"
    rest = name.split("proj.", 1)[1]
    if not rest.startswith("srra."):
        return f"maps.{side}.{rest}"
    _, block, tensor = rest.split(".")
    return f"maps.{side}.biases.{block}" if tensor == "bias" else f"maps.{side}.residuals.{block}.{tensor}"
