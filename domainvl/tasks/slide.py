"""Zero-shot and few-shot classification of slides, each a bag of tile features.

A batch is that of `domainvl.data.batch` without `image`, and with

    bag       float32 `[B, N, D]`, tiles in the joint space
    bag@deep  float32 `[B, N, W]`, the same in front of the model's projection
    keep      bool `[B, N]`, False where a shorter bag was filled up
    place     long `[B, N, 2]`, x and y of a tile's corner at level 0
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch.cli import OptimizerCallable
from numpy.typing import NDArray
from torch import Tensor

from domainvl.adapters._parts import overrides
from domainvl.adapters.base import Adapter
from domainvl.adapters.compose import Compose
from domainvl.backbones.base import Backbone
from domainvl.evaluation.outcome import Outcome
from domainvl.evaluation.prompt_sets import ClassifiedSlides
from domainvl.features import Batch, Features
from domainvl.objectives.base import Objective
from domainvl.speed import FAST, Speed
from domainvl.tasks.class_scores import PLAIN_ADAPTER, ClassScores
from domainvl.tasks.labelling import Labelling
from domainvl.tasks.rows import Rows, array
from domainvl.tasks.schedule import Schedule

_CURVE = (1, 5, 10, 50, 100)
"""Numbers of tiles whose zero-shot result is reported beside the chosen one (MI-Zero's)."""


class SlideClassification(Labelling):
    """Classification of slides against class names.

    Zero-shot is MI-Zero (Lu et al., CVPR 2023, arXiv 2306.07831): every tile is scored against every class, and a class
    has the mean of its `top` highest tiles. The number is fixed before anything is seen; `metrics.json` has those of
    other numbers beside it, and the median and the quartiles over prompt sets drawn from the data's prompts.

    Adapters work on finished tile features: heads over bags (`ABMIL`, `CLAM`, `ViLaMIL`), learned prompts, or what
    classifies a pooled feature (`LinearProbe`), which gets the mean over tiles.

    Args:
        backbone: The model that the tile features are of; its text tower is run.
        adapter: What is learned; None for zero-shot.
        objectives: Losses by name; None, or weight 0, switches one of a `base:` recipe off.
        optimizer: Class and arguments of the optimiser; needed to train.
        schedule: How the learning rate moves; constant when None.
        speed: What may be skipped.
        top: Tiles whose mean is the zero-shot score of a class, at most as many as a slide has; None for all.
        prompt_sets: How many prompt sets are drawn to see how much hangs on the words.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter | None = None,
        objectives: dict[str, Objective | None] | None = None,
        optimizer: OptimizerCallable | None = None,
        schedule: Schedule | None = None,
        speed: Speed = FAST,
        top: int | None = 50,
        prompt_sets: int = 50,
    ) -> None:
        super().__init__(backbone, adapter, objectives, optimizer, schedule, speed)
        if top is not None and top < 1:
            raise ValueError(f"SlideClassification: top is {top}; give at least 1, or null for the mean over all tiles")
        if prompt_sets < 1:
            raise ValueError(f"SlideClassification: prompt_sets is {prompt_sets}; give at least 1")
        self.top, self.prompt_sets = top, prompt_sets
        self._drawn: list[ClassScores] = []
        self._varied: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None

    # Set-up

    def setup(self, stage: str) -> None:
        """Read the classes from the data module, attach the adapter, check the objectives."""
        if self._attached:
            return
        if self.adapter is not None:
            self._check(self.adapter)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self._read_classes(data)
        self._drawn = [
            ClassScores(self.classes, self.multilabel, prompts, self.backbone, self.speed)
            for prompts in data.prompts.drawn(self.classes, self.prompt_sets)
        ]
        if stage == "fit":
            self._show_support()
            tower, device = self.backbone.image, self.backbone.logit_scale.device
            blank = {
                "bag": torch.ones(1, 2, tower.out_dim, device=device),
                "bag@deep": torch.ones(1, 2, tower.pooled_width, device=device),
                "keep": torch.ones(1, 2, dtype=torch.bool, device=device),
                "id": ["blank"],
            }
            with torch.no_grad():
                self.attach_objectives(self.features(blank, zero_shot=True))

    def _check(self, adapter: Adapter) -> None:
        tower = self.backbone.image
        parts = cast("list[Adapter]", list(adapter.parts)) if isinstance(adapter, Compose) else [adapter]
        for part in parts:
            if part.first_block("image", tower) < tower.depth or overrides(part, "readout"):
                raise TypeError(
                    f"SlideClassification: {type(part).__name__} works inside or right behind the towers, and the "
                    "features of tiles are finished; use ABMIL, CLAM, ViLaMIL, LinearProbe, or prompts such as CoOp"
                )

    def _supporting(self, adapter: Adapter, batch: Batch) -> Tensor:
        return adapter.pool_tiles(self._bag(batch))["image.pooled"]

    def _choosing(self, adapter: Adapter, batch: Batch) -> Features:
        return adapter.pool_tiles(self._bag(batch))

    # Features

    def _bag(self, batch: Batch) -> Features:
        tower, keep = self.backbone.image, batch["keep"]
        found, wanted = (batch["bag"].shape[-1], batch["bag@deep"].shape[-1]), (tower.out_dim, tower.pooled_width)
        if found != wanted:
            raise ValueError(
                f"SlideClassification: tile features are {found[0]} and {found[1]} wide, those of "
                f"{type(self.backbone).__name__} {wanted[0]} and {wanted[1]}; they were made by another encoder"
            )
        empty = [name for name, some in zip(batch["id"], keep.any(dim=1).tolist(), strict=True) if not some]
        if empty:
            raise ValueError(f"SlideClassification: slide {empty[0]} has no tiles; leave it out")
        return {"image.tokens": batch["bag"], "image@deep.tokens": batch["bag@deep"], "image.mask": keep}

    def features(self, batch: Batch, text: Features | None = None, zero_shot: bool = False) -> Features:
        """Everything that objectives and predictions read.

        Args:
            batch: A batch of slides.
            text: Class features of the adapted model; computed when None.
            zero_shot: Whether the untouched model's scores are wanted too.
        """
        adapter, bag = self.adapter or PLAIN_ADAPTER, self._bag(batch)
        features = bag | adapter.pool_tiles(bag)
        if adapter.text_per_image:
            features["text.pooled"] = self._scores.of_images(features["image.pooled"])
        else:
            features |= self._scores.features() if text is None else text
        if zero_shot:
            features["frozen/image.logits"] = mean_of_top(self.tile_scores(batch), batch["keep"], self.top)
        features["frozen/text.pooled"] = self._scores.frozen
        return features | self._scores.scores(features, novel=self.novel)

    @torch.no_grad()
    def tile_scores(self, batch: Batch) -> Tensor:
        """What the untouched model says of every tile, `[B, N, C]`; of tiles that fill a bag up, nothing sensible."""
        return self._tile_scores(self._scores, batch)

    def _tile_scores(self, scores: ClassScores, batch: Batch) -> Tensor:
        bag = batch["bag"]
        return scores.zero_shot(bag.flatten(0, 1)).unflatten(0, bag.shape[:2])

    # Steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """One optimiser step's loss; None where nothing is learned."""
        if not self.trained_parameters():
            return None
        return self.total_loss(self.features(batch, zero_shot=self.needs("frozen/image.logits")), batch)

    def scored(self, batch: Batch) -> Features:
        """See `Labelling.scored`."""
        return self.features(batch, text=self._evaluated, zero_shot=True)

    def _besides(self, batch: Batch, features: Features) -> dict[str, Any]:
        keep, scores = batch["keep"], self.tile_scores(batch)
        sets = [mean_of_top(self._tile_scores(drawn, batch), keep, self.top) for drawn in self._drawn]
        tiles = [mean_of_top(scores, keep, top) for top in (*_CURVE, None)]
        return {
            "prompt_sets": array(self._scores.probability(torch.stack(sets, dim=1))),
            "tiles": array(self._scores.probability(torch.stack(tiles, dim=1))),
        }

    def _take(self, rows: Rows) -> None:
        super()._take(rows)
        sets, tiles = rows.array("prompt_sets"), rows.array("tiles")
        self._varied = None if sets is None or tiles is None else (sets, tiles)

    def outcome(self) -> Outcome:
        """Class probabilities of the last evaluation, and zero-shot ones of other prompts and numbers of tiles."""
        if self.predictions is None or self._varied is None:
            return super().outcome()
        return ClassifiedSlides(self.predictions, *self._varied, [*map(str, _CURVE), "all"])


def mean_of_top(scores: Tensor, keep: Tensor, top: int | None) -> Tensor:
    """A class's mean over its `top` highest real tiles, or all where there are fewer: `[B, N, C] -> [B, C]`."""
    most = scores.shape[1] if top is None else min(top, scores.shape[1])
    high = scores.masked_fill(~keep[..., None], -torch.inf).topk(most, dim=1).values
    count = keep.sum(dim=1).clamp(max=most)[:, None]
    counted = torch.arange(most, device=scores.device)[:, None] < count[..., None]
    return high.where(counted, 0).sum(dim=1) / count
