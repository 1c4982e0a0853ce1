"""How the tiny language model learns: next words, then hidden words together with pairs of sections."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from domainvl.features import TextInputs
from pretraining.language import meaning, sections, tokenized, tokens_of

BATCH = 32
_PEAK_RATE = 2e-3
_WEIGHT_DECAY = 0.05
_WARMUP_SHARE = 0.05
_HIDDEN_SHARE = 0.2
_SCALE = 20.0


class Course:
    """Training of one model, step by step.

    Args:
        model: Trained in place.
        tokenizer: Its own.
        steps: Of both halves together.
        seed: Of the order of reports and of what is hidden.
    """

    def __init__(self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int, seed: int) -> None:
        self.model, self.tokenizer, self.steps = model, tokenizer, steps
        self.rng = np.random.default_rng([seed, 8])
        self.generator = torch.Generator().manual_seed(seed)
        groups = [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": _WEIGHT_DECAY},
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=_PEAK_RATE, betas=(0.9, 0.98))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)

    def run(self, reports: Sequence[str], say: Callable[[str], None] = print) -> None:
        """Train, with a line of progress every tenth of the way."""
        parts = sections(reports)
        began, recent = time.monotonic(), list[list[float]]()
        for step in range(1, self.steps + 1):
            chosen = self.rng.choice(len(reports), size=min(BATCH, len(reports)), replace=False).tolist()
            if step <= self.steps // 2:
                losses = [self._next_words([_some_of(self.rng, reports[i], parts[i]) for i in chosen])]
            else:
                losses = self._hidden_words_and_pairs([parts[i] for i in chosen])
            self.optimizer.zero_grad(set_to_none=True)
            torch.stack(losses).sum().backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            recent.append([loss.item() for loss in losses])
            if step % max(self.steps // 10, 1) == 0:
                shown = ", ".join(f"{value:.3f}" for value in np.mean([r for r in recent if len(r) == len(losses)], 0))
                say(f"step {step}/{self.steps}  loss {shown}  {time.monotonic() - began:.0f} s spent")
                recent.clear()

    def _next_words(self, texts: list[str]) -> Tensor:
        inputs = tokenized(self.tokenizer, texts)
        return self._of_words(inputs.ids, tokens_of(self.model, inputs, causal=True), inputs.keep)

    def _hidden_words_and_pairs(self, parts: list[tuple[str, str]]) -> list[Tensor]:
        said, losses = [], []
        for texts in zip(*parts, strict=True):
            inputs = tokenized(self.tokenizer, texts)
            hidden = torch.rand(inputs.ids.shape, generator=self.generator) < _HIDDEN_SHARE
            hidden &= inputs.pooled
            read = TextInputs(
                inputs.ids.masked_fill(hidden, self.tokenizer.mask_token_id), inputs.keep, pooled=inputs.pooled
            )
            tokens = tokens_of(self.model, read, causal=False)
            losses.append(self._of_words(inputs.ids, tokens, hidden))
            said.append(meaning(tokens, inputs))
        logits = _SCALE * said[0] @ said[1].T
        # The same impression stands under several reports: each of them is right.
        impressions = [impression for _, impression in parts]
        same = torch.tensor([[one == other for other in impressions] for one in impressions]).float()
        targets = same / same.sum(1, keepdim=True)
        pairs = (functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)) / 2
        return [torch.stack(losses).mean(), pairs]

    def _of_words(self, ids: Tensor, tokens: Tensor, asked: Tensor) -> Tensor:
        """Cross-entropy of the words that are asked for, each at the place in front of it."""
        return functional.cross_entropy(
            self.model.lm_head(tokens[:, :-1][asked[:, 1:]].float()), ids[:, 1:][asked[:, 1:]]
        )

    def _rate(self, step: int) -> float:
        warmup = max(int(_WARMUP_SHARE * self.steps), 1)
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(self.steps - warmup, 1)))


def _some_of(rng: np.random.Generator, whole: str, parts: tuple[str, str]) -> str:
    """A report or one of its two sections."""
    return (whole, *parts)[int(rng.integers(3))]
