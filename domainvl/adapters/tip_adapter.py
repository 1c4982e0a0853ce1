"""Tip-Adapter and Tip-Adapter-F: a cache of the training images (Zhang et al., ECCV 2022, arXiv 2207.09519).

With f the normalised image feature, W the class features, K the normalised training features (each the mean over
augmented views, `[N, D]`) and V their labels (one-hot, `[N, C]`):

    image.logits = s f W^T + alpha exp(-beta (1 - f K^T)) V

Tip-Adapter learns nothing: fitting it fills the cache. Tip-Adapter-F (`learn_keys`) starts from the same K and learns
it, with the cross-entropy of these scores, AdamW with eps 1e-4, and alpha and beta as given.

Differs from the authors' code, which keeps the epoch with the best accuracy on the test split and reports the maximum:
here the last epoch counts. With `search` alpha and beta are chosen on the validation split after the last epoch, on
their grid (20 alphas x 200 betas from 0.1 on, the first of the best); the task has no way to choose on another
split, and `metrics.json` says what was chosen. s is the backbone's own factor. In multi-label data W and V have a
column for the presence and one for the absence of each finding; an unknown label is a row of zeros there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domainvl.adapters._saved import check_support
from domainvl.adapters._scores import cosine_logits
from domainvl.adapters.base import Adapter
from domainvl.features import Features

ALPHAS, BETAS = 20, 200
"""Candidates of the search."""


class TipAdapter(Adapter):
    """Scores of the class prompts plus scores of similar training images.

    Args:
        alpha: Weight of the cache.
        beta: How fast similarity decays.
        learn_keys: Learn the cached features (Tip-Adapter-F); False learns nothing.
        views: Augmented passes that a cached feature is the mean of.
        search: Choose alpha and beta on the validation split after training.
        largest_alpha: Upper end of the search.
        largest_beta: Upper end of the search.
    """

    alpha: Tensor
    beta: Tensor
    keys: Tensor | None
    values: Tensor | None

    def __init__(
        self,
        alpha: float = 1.17,
        beta: float = 1.0,
        learn_keys: bool = False,
        views: int = 10,
        search: bool = False,
        largest_alpha: float = 10.0,
        largest_beta: float = 12.0,
    ) -> None:
        super().__init__()
        if alpha <= 0 or beta <= 0:
            raise ValueError(f"TipAdapter: alpha and beta must be positive, got {alpha} and {beta}")
        if views < 1:
            raise ValueError(f"TipAdapter: views must be positive, got {views}")
        if largest_alpha <= 0.1 or largest_beta <= 0.1:
            raise ValueError(
                f"TipAdapter: largest_alpha and largest_beta must exceed 0.1, got {largest_alpha} and {largest_beta}"
            )
        self.given = {"alpha": alpha, "beta": beta}
        self.learn_keys, self.support_views, self.chooses = learn_keys, views, search
        self.largest_alpha, self.largest_beta = largest_alpha, largest_beta
        self.register_buffer("alpha", torch.tensor(float(alpha)))
        self.register_buffer("beta", torch.tensor(float(beta)))
        # Parameters are what the optimiser and buffers what the checkpoint takes besides.
        if learn_keys:
            self.register_parameter("keys", None)
        else:
            self.register_buffer("keys", None)
        self.register_buffer("values", None)

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {
            **self.given,
            "learn_keys": self.learn_keys,
            "views": self.support_views,
            "search": self.chooses,
            "largest_alpha": self.largest_alpha,
            "largest_beta": self.largest_beta,
        }

    def take_support(self, features: Tensor, targets: Tensor) -> None:
        """See `Adapter.take_support`: fills the cache."""
        self._hold(F.normalize(features.float().mean(dim=0), dim=-1), targets.float())

    def _hold(self, keys: Tensor, values: Tensor) -> None:
        self.keys = nn.Parameter(keys.clone()) if self.learn_keys else keys.clone()
        self.values = values.clone()
        self.to(keys.device)

    def logits(self, features: Features, scale: Tensor, novel: bool = False) -> Features:
        """See `Adapter.logits`."""
        if novel:
            raise ValueError("TipAdapter knows the classes of its cache alone; it cannot score novel ones")
        text, similarity = features["text.pooled"], self._similarity(features)
        known = cosine_logits(features["image.pooled"], text, scale)
        return {"image.logits": known + self._cached(similarity, self.alpha, self.beta)}

    def _similarity(self, features: Features) -> Tensor:
        keys, _ = self._cache()
        return F.linear(F.normalize(features["image.pooled"].float(), dim=-1), keys)

    def _cache(self) -> tuple[Tensor, Tensor]:
        if self.keys is None or self.values is None:
            raise RuntimeError("TipAdapter: the cache is empty; take_support() or load_tensors() comes before scores")
        return self.keys, self.values

    def _cached(self, similarity: Tensor, alpha: Tensor | float, beta: Tensor | float) -> Tensor:
        return alpha * torch.exp(beta * similarity - beta) @ self._cache()[1]

    def choose(self, features: Features, scale: Tensor, measure: Callable[[Tensor], float]) -> None:
        """See `Adapter.choose`."""
        known = cosine_logits(features["image.pooled"], features["text.pooled"], scale)
        similarity = self._similarity(features)
        best = -float("inf")
        for beta in _grid(self.largest_beta, BETAS):
            cached = self._cached(similarity, 1.0, beta)
            for alpha in _grid(self.largest_alpha, ALPHAS):
                worth = measure(known + alpha * cached)
                if worth > best:
                    best = worth
                    self.alpha.fill_(alpha)
                    self.beta.fill_(beta)

    def facts(self) -> dict[str, Any]:
        """See `Adapter.facts`."""
        source = "validation split" if self.chooses else "recipe"
        return {"alpha": round(float(self.alpha), 6), "beta": round(float(self.beta), 6), "chosen_on": source}

    def only_known_classes(self) -> bool:
        """See `Adapter.only_known_classes`."""
        return True

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """See `Adapter.load_tensors`; an empty cache takes the saved one's size."""
        keys, values = tensors.get("keys"), tensors.get("values")
        if self.keys is None and keys is not None and values is not None:
            check_support("TipAdapter", {"keys": keys, "values": values})
            self._hold(keys.to(self.alpha.device), values.to(self.alpha.device))
        super().load_tensors(tensors)


def _grid(largest: float, steps: int) -> list[float]:
    return [step * (largest - 0.1) / steps + 0.1 for step in range(steps)]
