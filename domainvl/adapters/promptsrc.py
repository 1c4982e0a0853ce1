"""PromptSRC: self-regulating prompts (Khattak et al., ICCV 2023, arXiv 2307.06948).

Independent prompts in both towers. With P_i those of the text blocks and Q_i those of the image blocks, i < J:

    text    [start] P_0 e(name) e(.) [end];  P_i takes the place of these K in front of block i
    image   norm([class, patches] + positions, Q_0);  Q_i takes the place of the last K in front of block i

What keeps them close to the untouched model are objectives:

    CE(l) + 25 mean|t - t_0| + 10 mean|f - f_0| + KL(softmax l_0 || softmax l) / C     `FrozenL1` twice and `FrozenKL`

with normalised features and t_0 of many templates. And what is used in the end is an average over epochs e = 1 ... E
(counted from 1) of all learned vectors, weighted by N(e; mean, deviation) over the sum of these weights.

Differs from the authors' code: t_0 averages normalised features of the prompt set's templates, theirs are averaged as
they are; J defaults to three quarters of the shallower tower (their 9 of 12); only what is learned is averaged, where
they average the frozen weights too; validation while training sees the vectors of the epoch, not the average. Training
that stops early keeps the last vectors. In multi-label data the negative templates keep their words.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from domainvl.adapters._deep import DeepPrompts
from domainvl.adapters.base import Side
from domainvl.backbones.base import Backbone

_SUM = "sum_of_"


class PromptSRC(DeepPrompts):
    """Prompts in the blocks of both towers, averaged over epochs.

    Args:
        tokens: Number of vectors K per block and tower.
        depth: Number of blocks J that get vectors of their own, from the first; None is three quarters of them.
        init: Words whose first K tokens are the start of the text; the others stay. None starts from small random ones.
        mean: Epoch that weighs most in the average (15 of 20 in base-to-novel, 30 of 50 in few-shot); None uses the
            last epoch alone.
        deviation: Epochs around it that still count (1 in base-to-novel, 30 in few-shot).
    """

    def __init__(
        self,
        tokens: int = 4,
        depth: int | None = None,
        init: str | None = "a photo of a",
        mean: float | None = 15.0,
        deviation: float = 1.0,
    ) -> None:
        super().__init__(tokens, depth, init)
        if deviation <= 0:
            raise ValueError(f"PromptSRC: deviation must be positive, got {deviation}")
        self.mean, self.deviation = mean, deviation

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {
            "tokens": self.tokens,
            "depth": self.depth,
            "init": self.init,
            "mean": self.mean,
            "deviation": self.deviation,
        }

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`."""
        super().attach(backbone)
        image, text = backbone.image, backbone.text
        self.text = nn.ParameterList(torch.randn(self.tokens, text.width) * 0.02 for _ in range(self._depth - 1))
        self.image = nn.ParameterList(torch.randn(self.tokens, image.width) * 0.02 for _ in range(self._depth))
        if self.mean is not None:
            for name, parameter in list(self.named_parameters()):
                self.register_buffer(_SUM + name.replace(".", "_"), torch.zeros_like(parameter))
        self.to(backbone.logit_scale.device)

    def vectors(self, side: Side, index: int) -> Tensor:
        """See `DeepPrompts.vectors`."""
        if side == "image":
            return self.image[index]
        return self.context if index == 0 else self.text[index - 1]

    @torch.no_grad()
    def epoch_ended(self, epoch: int, epochs: int) -> None:
        """See `Adapter.epoch_ended`: one more term of the average, which takes over after the last."""
        if self.mean is None:
            return
        weights = _gaussian(self.mean, self.deviation, epochs)
        for name, parameter in self.named_parameters():
            total = self.get_buffer(_SUM + name.replace(".", "_"))
            total += weights[epoch] * parameter
            if epoch + 1 == epochs:
                parameter.copy_(total)

    def tensors(self) -> dict[str, Tensor]:
        """See `Adapter.tensors`; the running sums are kept in checkpoints alone."""
        return {name: tensor for name, tensor in super().tensors().items() if not name.startswith(_SUM)}


def _gaussian(mean: float, deviation: float, epochs: int) -> list[float]:
    """Weights of epochs 1 to `epochs`, which sum to 1."""
    exponents = [-0.5 * ((epoch - mean) / deviation) ** 2 for epoch in range(1, epochs + 1)]
    # Only ratios count, so the largest may be 1: far from the mean all of them would be too small to tell from 0.
    weights = [math.exp(exponent - max(exponents)) for exponent in exponents]
    return [weight / sum(weights) for weight in weights]
