"""Pretraining on cartoons: a contrastive loss in which every caption that is true of an image is its match.

Two linear heads, thrown away afterwards, name the facts in an image and find the patches they touch. A transformer
this small learns to see a few faint pixels many times sooner when it is told where to look.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPModel, PreTrainedTokenizerFast

from pretraining.corpus import MARKED, WORLDS, Bank, FactIndex, matches, word
from pretraining.model import CHANNEL_MEAN, CHANNEL_STD

BATCH = 64
_PEAK_RATE = 1.2e-3
_WEIGHT_DECAY = 0.05
_WARMUP_SHARE = 0.06
_FACT_WEIGHT = 10.0
_MARK_WEIGHT = 20.0
_HIGHEST_SCALE = math.log(50)


class Guides(nn.Module):
    """The two heads: which facts an image holds, and which patches the marked ones touch."""

    def __init__(self, width: int, facts: int, marks: int) -> None:
        super().__init__()
        self.what = nn.Linear(width, facts)
        self.where = nn.Linear(width, marks)

    def loss(self, pooled: Tensor, patches: Tensor, holds: Tensor, marks: Tensor) -> Tensor:
        """Weighted sum of both binary cross-entropies.

        Args:
            pooled: Image features before projection ``[B, D]``.
            patches: Normalised patch tokens ``[B, P, D]``.
            holds: Facts ``[B, F]``.
            marks: Marked facts by patch ``[B, P, M]``.
        """
        what = functional.binary_cross_entropy_with_logits(self.what(pooled), holds)
        where = functional.binary_cross_entropy_with_logits(self.where(patches), marks)
        return _FACT_WEIGHT * what + _MARK_WEIGHT * where


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, true_of: Tensor) -> Tensor:
    """InfoNCE in both directions, with the target spread evenly over all true pairs.

    Args:
        image: Image features ``[B, D]``.
        text: Caption features ``[B, D]``.
        scale: Logit scale.
        true_of: Whether caption j is true of image i, ``[B, B]``.
    """
    logits = scale * functional.normalize(image, dim=-1) @ functional.normalize(text, dim=-1).T
    target = true_of.float()
    by_image = functional.cross_entropy(logits, target / target.sum(1, keepdim=True))
    by_text = functional.cross_entropy(logits.T, target.T / target.T.sum(1, keepdim=True))
    return (by_image + by_text) / 2


def pretrain(
    model: CLIPModel,
    tokenizer: PreTrainedTokenizerFast,
    bank: Bank,
    *,
    steps: int,
    seed: int,
    report: Callable[[str], None] = print,
) -> None:
    """Trains in place, with a line of progress every twentieth of the way."""
    rng = np.random.default_rng([seed, 6])
    generator = torch.Generator().manual_seed(seed)
    index = FactIndex.of(WORLDS)
    guides = Guides(model.config.vision_config.hidden_size, len(index.columns), len(MARKED))
    trained = [*model.parameters(), *guides.parameters()]
    optimizer = _optimizer(trained)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    # On two cores the written-out attention trains about twice as fast as the fused one at this size.
    model.set_attn_implementation("eager")
    model.train()
    began, recent = time.monotonic(), list[float]()
    for step in range(1, steps + 1):
        chosen = rng.choice(len(bank.facts), size=min(BATCH, len(bank.facts)), replace=False)
        captions = word(rng, bank, chosen)
        holds = index.rows(bank.present(chosen))
        tokens = tokenizer([caption.text for caption in captions], padding=True, return_tensors="pt")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            seen = model.vision_model(pixel_values=augment(bank.images[chosen], generator))
            image = model.visual_projection(seen.pooler_output)
            text = model.get_text_features(**tokens).pooler_output
        true_of = torch.from_numpy(matches(index, holds, captions))
        loss = contrastive_loss(image.float(), text.float(), model.logit_scale.exp(), true_of)
        loss = loss + guides.loss(
            seen.pooler_output.float(),
            model.vision_model.post_layernorm(seen.last_hidden_state[:, 1:].float()),
            torch.from_numpy(holds),
            torch.from_numpy(bank.marks[chosen]).float(),
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, _HIGHEST_SCALE)
        recent.append(loss.item())
        if step % max(steps // 20, 1) == 0 or step == steps:
            spent = time.monotonic() - began
            left = spent / step * (steps - step)
            report(f"step {step}/{steps}  loss {np.mean(recent):.3f}  {spent:.0f} s spent, about {left:.0f} s left")
            recent.clear()
    model.set_attn_implementation("sdpa")
    model.eval()


def augment(images: NDArray[np.uint8], generator: torch.Generator) -> Tensor:
    """Normalises ``[B, S, S, 3]`` bytes to ``[B, 3, S, S]``, each with its own brightness and contrast."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    count = len(pixels)
    gain = 1 + 0.2 * torch.randn(count, 1, 1, 1, generator=generator)
    bias = 0.08 * torch.randn(count, 1, 1, 1, generator=generator)
    pixels = ((pixels - 0.5) * gain + 0.5 + bias).clamp(0, 1)
    return (pixels - CHANNEL_MEAN) / CHANNEL_STD


def _optimizer(parameters: list[nn.Parameter]) -> torch.optim.AdamW:
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": _WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=_PEAK_RATE, betas=(0.9, 0.98))


def _rate(step: int, steps: int) -> float:
    warmup = max(int(_WARMUP_SHARE * steps), 1)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))
