"""Classes looked for in the organ that holds them: what its feature scores against their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from domainvl.data.names import hint, listing
from domainvl.features import Features

Score = Callable[[Features], Tensor]
"""Probabilities `[B, C]` of what is under `image.pooled`."""


class OrganScores:
    """Probabilities of classes by organ.

    Args:
        organ_of: Organ of every class that is looked for in one.
        classes: Class names, in the order of labels.
        organs: The organs that batches hold.
        multilabel: Whether an image may show several classes.
    """

    def __init__(
        self, organ_of: Mapping[str, str], classes: Sequence[str], organs: Sequence[str], multilabel: bool
    ) -> None:
        for what, given, known in (("class", organ_of, classes), ("organ", organ_of.values(), organs)):
            wrong = next((name for name in given if name not in known), None)
            if wrong is not None:
                raise ValueError(
                    f"Alignment: organ_of names the {what} {wrong!r}{hint(wrong, known)} The data has {listing(known)}"
                )
        if organ_of and not multilabel:
            raise ValueError("Alignment: organ_of is for data in which a scan may show several classes")
        self.classes = [name for name in classes if name in organ_of]
        self._columns = [list(classes).index(name) for name in self.classes]
        self._organs = [organ_of[name] for name in self.classes]

    def needs(self) -> set[str]:
        """The features that are read."""
        return {f"image@{organ}.pooled" for organ in self._organs}

    def found(self, image: Features, score: Score) -> tuple[Tensor, Tensor]:
        """Probabilities of `classes` `[B, K]`, and whether the organ is there, `[B, K]`."""
        of_organ = {organ: score({"image.pooled": image[f"image@{organ}.pooled"]}) for organ in set(self._organs)}
        pairs = zip(self._organs, self._columns, strict=True)
        probability = torch.stack([of_organ[organ][:, column] for organ, column in pairs], dim=1)
        return probability, torch.stack([image[f"image@{organ}.mask"] for organ in self._organs], dim=1)
