"""A small task and data module that stand in for the real ones."""

import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from domainvl.evaluation import Predictions
from domainvl.evaluation.outcome import Classified


class Part(nn.Module):
    """Something that a recipe exchanges."""


class Small(Part):
    def __init__(self, width: int = 4, drop: float = 0.1):
        super().__init__()
        self.width, self.drop = width, drop


class Large(Part):
    def __init__(self, width: int = 8, layers: int = 2):
        super().__init__()
        self.width = width


class ToyTask(LightningModule):
    """A linear layer whose training draws noise, so that a wrong resume shows."""

    def __init__(
        self,
        optimizer: OptimizerCallable,
        schedule: LRSchedulerCallable | None = None,
        part: Part | None = None,
        parts: dict[str, Part] | None = None,
        slow: float = 0.0,
        fail: str | None = None,
    ):
        super().__init__()
        self.layer, self.optimizer, self.schedule = nn.Linear(4, 2), optimizer, schedule
        self.frozen = nn.Linear(4, 2).requires_grad_(False)
        self.strict_loading = False
        self.adapter, self.slow, self.fail = None, slow, fail
        self.predictions: Any = None
        if fail == "build":
            raise ValueError("ToyTask: fail must not be 'build'")

    def configure_optimizers(self):
        optimizer = self.optimizer(self.layer.parameters())
        return [optimizer] if self.schedule is None else ([optimizer], [self.schedule(optimizer)])

    def on_train_epoch_start(self):
        torch.manual_seed(int(os.environ["PL_GLOBAL_SEED"]) * 1000 + self.current_epoch)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k.startswith("layer")}

    def training_step(self, batch, index):
        if self.slow:
            import time

            time.sleep(self.slow)
        noisy = batch["x"] + 0.1 * torch.randn_like(batch["x"])
        loss = nn.functional.cross_entropy(self.layer(noisy), batch["y"])
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(noisy))
        return loss

    def on_test_epoch_start(self):
        self._rows = []

    on_validation_epoch_start = on_predict_epoch_start = on_test_epoch_start

    def test_step(self, batch, index):
        self._rows.append((batch["y"], self.layer(batch["x"]).softmax(-1), self.frozen(batch["x"]).softmax(-1)))

    validation_step = predict_step = test_step

    def on_test_epoch_end(self):
        y, adapted, plain = (torch.cat(part).numpy() for part in zip(*self._rows, strict=True))
        names = [str(i) for i in range(len(y))]
        self.predictions = Predictions(
            ids=names,
            patients=names,
            classes=["a", "b"],
            multilabel=False,
            labels=y.astype(np.int64),
            valid=None,
            zero_shot=plain,
            adapted=adapted,
        )
        if self.trainer.validating or self.trainer.state.fn == "fit":
            self.log("val/accuracy", float((adapted.argmax(1) == y).mean()), rank_zero_only=True)

    on_validation_epoch_end = on_predict_epoch_end = on_test_epoch_end

    def outcome(self):
        return Classified(self.predictions)

    def hashes(self):
        return {"preset": "p", "backbone": "b"}


@dataclass
class ToyRejects:
    def __len__(self):
        return 0

    def write(self, path):
        path.write_text("row,path,reason\n")


class LazyLoader(DataLoader):
    """Begins when it is read, as the real loader does: after the sampler knows its epoch and the task has seeded."""

    def __iter__(self):
        yield from super().__iter__()


class ToyData(LightningDataModule):
    """Two blobs."""

    classes, multilabel = ["a", "b"], False

    def __init__(
        self,
        root: str | None = None,
        shots: int | None = None,
        count: int = 32,
        policy: Literal["keep", "drop"] | Part = "keep",
    ):
        super().__init__()
        if count < 0:
            raise ValueError("ToyData: count is negative")
        self.policy = policy
        self.root, self.count, self.rejects = root, count, ToyRejects()

    def _set(self, seed):
        generator = torch.Generator().manual_seed(seed)
        y = torch.arange(self.count) % 2
        x = torch.randn(self.count, 4, generator=generator) + y[:, None]
        return [{"x": a, "y": b} for a, b in zip(x, y, strict=True)]

    def train_dataloader(self):
        data = self._set(0)
        sampler = DistributedSampler(
            data, self.trainer.world_size, self.trainer.global_rank, seed=int(os.environ["PL_GLOBAL_SEED"])
        )
        return LazyLoader(data, batch_size=8, sampler=sampler)

    def val_dataloader(self):
        return DataLoader(self._set(1), batch_size=8)

    def test_dataloader(self):
        return DataLoader(self._set(2), batch_size=8)

    predict_dataloader = test_dataloader

    def hashes(self):
        return {"split": "s"}
