"""One set of class scores teaches another (the implicit distillation of SgVA-CLIP, after Hinton et al., 2015)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from domainvl.features import Batch, FeatureKey, Features
from domainvl.objectives.base import Context, Objective


class Distillation(Objective):
    """`- mean_b sum_c softmax(teacher / T) log softmax(student / T)`.

    In multi-label data every finding is a choice of two: sigmoids take the place of the softmax, and the mean runs over
    all (image, finding) pairs, known or not, as no label is read.

    Args:
        teacher: Scores to follow, `[B, C]`.
        student: Scores that follow.
        temperature: T.
        detach: Keep the gradient away from the teacher; the authors of SgVA let it through.
        weight: Factor in the weighted sum.
    """

    def __init__(
        self,
        teacher: str = "image@prompt.logits",
        student: str = "image@student.logits",
        temperature: float = 5.0,
        detach: bool = False,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        if temperature <= 0:
            raise ValueError(f"Distillation: temperature must be positive, got {temperature}")
        self.teacher, self.student = str(FeatureKey.parse(teacher)), str(FeatureKey.parse(student))
        self.temperature, self.detach = temperature, detach

    @property
    def needs(self) -> frozenset[str]:
        """Both scores, and the labels for their shape alone."""
        return frozenset({self.teacher, self.student, "batch:label"})

    def forward(self, features: Features, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The loss."""
        teacher = features[self.teacher].float() / self.temperature
        student = features[self.student].float() / self.temperature
        if self.detach:
            teacher = teacher.detach()
        if batch["label"].dim() == 2:
            # Not torch's own loss: it gives the target no gradient.
            p = teacher.sigmoid()
            return {"loss": -(p * F.logsigmoid(student) + (1 - p) * F.logsigmoid(-student)).mean()}
        return {"loss": -(teacher.softmax(dim=-1) * student.log_softmax(dim=-1)).sum(dim=-1).mean()}
