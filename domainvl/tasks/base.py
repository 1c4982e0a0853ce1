"""What every task does: freeze the backbone, check what objectives need, sum and log losses, save what was trained."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from domainvl.adapters.base import Adapter
from domainvl.backbones.base import Backbone
from domainvl.data.preset import Preset
from domainvl.distributed import first_row, gather, rank, world
from domainvl.evaluation.outcome import Outcome
from domainvl.features import Batch, Features
from domainvl.objectives.base import Context, Objective, batch_needs, feature_needs, required
from domainvl.speed import FAST, Speed
from domainvl.tasks.schedule import Schedule

if TYPE_CHECKING:
    from domainvl.data.volumes.preset import VolumePreset


class Task(LightningModule):
    """Base of all tasks.

    The adapter is attached in `setup`, when the data module knows the classes. Only what requires a gradient then is
    trained, checkpointed and exported; the backbone stays frozen and in evaluation mode.

    Args:
        backbone: The pretrained model.
        adapter: What is learned; None leaves the model as it is (zero-shot).
        objectives: Losses by name; the name is what they are logged under. None, or weight 0, switches one of a
            `base:` recipe off.
        optimizer: Class and arguments of the optimiser; needed to train.
        schedule: How the learning rate moves; constant when None.
        speed: What may be skipped; everything that leaves the numbers as they are.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter | None = None,
        objectives: Mapping[str, Objective | None] | None = None,
        optimizer: OptimizerCallable | None = None,
        schedule: Schedule | None = None,
        speed: Speed = FAST,
    ) -> None:
        super().__init__()
        self.speed = speed
        self.backbone = backbone.requires_grad_(False)
        self.adapter = adapter
        # An objective of weight 0 would cost its features and could still spoil the sum with a NaN.
        self.objectives: dict[str, Objective] = {
            name: objective
            for name, objective in (objectives or {}).items()
            if objective is not None and objective.weight > 0
        }
        # Registered as well: objectives may have parameters (training-only heads) and buffers.
        self._registered = nn.ModuleDict(self.objectives)
        self.optimizer = optimizer
        self.schedule = schedule
        # A checkpoint holds the trained tensors alone; on_load_checkpoint checks that none of those is missing.
        self.strict_loading = False
        self.classes: list[str] = []
        self.trained_classes: list[str] | None = None
        self._saved: Mapping[str, Tensor] | None = None
        self._saved_scale: Tensor | None = None
        self._attached = False
        self._batches = 0

    @property
    def preset(self) -> Preset | VolumePreset:
        """Preprocessing that the backbone asks for; data modules read it."""
        return self.backbone.preset

    def hashes(self) -> dict[str, str]:
        """What a result depends on besides the data."""
        return {"preset": self.preset.digest, "backbone": self.backbone.spec().digest}

    def adopt(
        self,
        adapter: Adapter,
        tensors: Mapping[str, Tensor],
        classes: Sequence[str],
        logit_scale: Tensor | None = None,
    ) -> None:
        """Use a saved adapter that was trained on `classes`; its tensors are loaded once `setup` has attached it."""
        self.adapter = adapter
        self._saved, self._saved_scale = tensors, logit_scale
        self.trained_classes = list(classes)

    def outcome(self) -> Outcome:
        """What the last evaluation found."""
        raise RuntimeError(f"{type(self).__name__} has evaluated nothing; the split may have no images")

    def attach(self, classes: Tensor) -> None:
        """Give the adapter its parameters: backbone first, then the zero-shot class features, then saved values."""
        if self._attached:
            return
        half = self.speed.frozen == "bf16"
        for tower in (self.backbone.image, self.backbone.text):
            tower.onednn = self.speed.onednn
            if half:
                tower.cast_blocks(torch.bfloat16)
        if self.adapter is None:
            return
        self.adapter.attach(self.backbone)
        self.adapter.prime(classes)
        if half:
            # Layers that joined a bf16 tower (LoRA) took its type on.
            self.adapter.float()
        if self._saved is not None:
            self.adapter.load_tensors(dict(self._saved))
        if self._saved_scale is not None:
            self.backbone.logit_scale.data.copy_(self._saved_scale)
        self._attached = True

    def novel_classes(self) -> bool:
        """Whether a saved adapter meets classes that it was not trained on."""
        if self.adapter is None or self.trained_classes in (None, self.classes):
            return False
        if self.adapter.only_known_classes():
            raise ValueError(
                f"{type(self.adapter).__name__} scores only the classes that it was trained on "
                f"({', '.join(self.trained_classes or [])}); the data has {', '.join(self.classes)}"
            )
        return True

    def attach_objectives(self, offered: Features) -> None:
        """Let objectives make their heads; raise when one needs a feature that is not among these examples."""
        for name, objective in self.objectives.items():
            missing = sorted(feature_needs(required(objective.needs)) - set(offered))
            if missing:
                adapter = type(self.adapter).__name__ if self.adapter else "no adapter"
                raise ValueError(
                    f"objective {name!r} ({type(objective).__name__}) needs {', '.join(missing)}, but "
                    f"{type(self).__name__} with {adapter} makes {', '.join(sorted(offered))}"
                )
            objective.attach({key: value.shape[-1] for key, value in offered.items() if value.dim()})
            objective.to(self.backbone.logit_scale.device)

    def needs(self, key: str) -> bool:
        """Whether any objective reads this feature."""
        return any(key in feature_needs(objective.needs) for objective in self.objectives.values())

    def total_loss(self, features: Features, batch: Batch) -> Tensor:
        """The weighted sum of all objectives, logged as `train/loss` and `train/<name>`."""
        if not self.objectives:
            raise ValueError(f"{type(self).__name__}: there is nothing to train for; give at least one objective")
        context = Context(
            scale=self.backbone.scale(),
            epoch=self.current_epoch,
            step=self.global_step,
            gather=gather,
            offset=first_row(batch["index"]),
            bias=self.backbone.logit_bias,
        )
        losses = []
        for name, objective in self.objectives.items():
            self._check_batch(name, objective, batch)
            result = objective(features, batch, context)
            losses.append(objective.weight * result["loss"])
            for key, value in result.items():
                self._log_train(name if key == "loss" else f"{name}.{key}", value, batch)
        penalty = self.adapter.penalty() if self.adapter is not None else None
        if penalty is not None:
            losses.append(penalty)
            self._log_train("penalty", penalty, batch)
        loss = torch.stack(losses).sum()
        self._log_train("loss", loss, batch)
        return loss

    def _log_train(self, name: str, value: Tensor, batch: Batch) -> None:
        self.log(
            f"train/{name}",
            value.detach(),
            on_step=False,
            on_epoch=True,
            prog_bar=name == "loss",
            batch_size=len(batch["index"]),
            sync_dist=world() > 1,
        )

    def train(self, mode: bool = True) -> Task:
        """Training mode for what is learned; the frozen backbone keeps its dropout off."""
        super().train(mode)
        self.backbone.eval()
        if self.adapter is not None:
            # LoRA's dropout sits inside the backbone, so the adapter has the last word.
            self.adapter.train(mode)
        return self

    def on_train_epoch_start(self) -> None:
        """Count the epoch's batches from the start."""
        self._batches = 0

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Seed augmentation and dropout by (seed, epoch, batch, rank) alone.

        A run resumed at an epoch is then the run that was interrupted, whatever was drawn in between. It happens here
        because data loaders draw from the same generator when their iterators are made, at a moment that differs
        between the first epoch of a process and later ones.
        """
        if self.trainer.training:
            numbers = (int(os.environ.get("PL_GLOBAL_SEED", 0)), self.current_epoch, self._batches, rank())
            torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1))
            self._batches += 1
        return batch

    def on_after_backward(self) -> None:
        """Say what to set where DDP waits for gradients that do not come; torch says it a step later and at length."""
        if self._batches > 1 or getattr(self.trainer.strategy.model, "find_unused_parameters", True):
            return
        idle = [name for name, weight in self.named_parameters() if weight.requires_grad and weight.grad is None]
        if idle:
            raise RuntimeError(
                f"{type(self).__name__}: {len(idle)} trained tensors, {idle[0]!r} among them, have no part in the loss "
                f"of epoch {self.current_epoch} (objectives: {', '.join(self.objectives)}), and processes wait for "
                "them; set trainer.strategy: ddp_find_unused_parameters_true"
            )

    def on_train_epoch_end(self) -> None:
        """Let the adapter average its weights."""
        if self.adapter is not None:
            self.adapter.epoch_ended(self.current_epoch, self.trainer.max_epochs or 1)
            if self.adapter.chooses and self._is_last_epoch():
                self.choose_on_validation()

    def choose_on_validation(self) -> None:
        """Let the adapter choose; a task that has something to choose by overrides this. Runs before the checkpoint."""
        raise NotImplementedError(f"{type(self).__name__} has no way to choose values of {type(self.adapter).__name__}")

    def _is_last_epoch(self) -> bool:
        trainer = self.trainer
        epochs = -1 if trainer.max_epochs is None else trainer.max_epochs
        enough = 0 <= epochs <= self.current_epoch + 1 or 0 <= trainer.max_steps <= trainer.global_step
        return bool(trainer.should_stop or enough)

    def trained_parameters(self) -> list[nn.Parameter]:
        """Everything that the optimiser moves."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def optimizer_groups(self) -> list[Any]:
        """What the optimiser is given: parameters, or groups of them with settings of their own."""
        return list(self.trained_parameters())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser over everything that requires a gradient."""
        if self.optimizer is None:
            raise ValueError(f"{type(self).__name__}: training needs an `optimizer`, e.g. torch.optim.AdamW")
        trained = self.trained_parameters()
        if not trained and self.adapter is not None and self.adapter.support_views:
            return None  # A cache of training images: it was filled in setup.
        if not trained:
            raise ValueError(
                f"{type(self).__name__}: nothing to train; give an `adapter` (or use `test` for zero-shot)"
            )
        optimizer = self.optimizer(self.optimizer_groups())
        if self.schedule is None:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = self.schedule.build(optimizer, steps, self.trainer.max_epochs or 1)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": self.schedule.interval},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was trained, not half a gigabyte of frozen backbone."""
        trained = self._trained_names()
        checkpoint["state_dict"] = {
            name: tensor for name, tensor in checkpoint["state_dict"].items() if name in trained
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another adapter."""
        expected, found = self._trained_names(), set(checkpoint["state_dict"])
        if expected != found:
            raise ValueError(
                f"the checkpoint does not fit this recipe: missing {sorted(expected - found)[:3]}, "
                f"unknown {sorted(found - expected)[:3]}"
            )

    def _trained_names(self) -> set[str]:
        names = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        # Running values of adapters, objectives, teachers and queues; the backbone's buffers are its own.
        buffers = {name for name, _ in self.named_buffers() if not name.startswith("backbone.")}
        return names | (buffers & set(self.state_dict()))

    def _check_batch(self, name: str, objective: Objective, batch: Batch) -> None:
        missing = sorted(batch_needs(objective.needs) - set(batch))
        if missing:
            raise ValueError(
                f"objective {name!r} ({type(objective).__name__}) needs {', '.join(missing)} in the batch, which holds "
                f"{', '.join(sorted(batch))}"
            )
