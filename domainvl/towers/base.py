"""A tower: an encoder of any library, seen as embed -> blocks -> pool -> project.

The library's own layers are called one by one, with their weights and names untouched. That is what lets an
adapter edit the tokens between two blocks, lets PEFT export LoRA weights that load without this package, and lets a
frozen prefix be computed once (`run(stop=k)`) and resumed from (`run(start=k)`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from domainvl.features import TextInputs
from domainvl.tokens import TokenState

Edit = Callable[[int, TokenState], TokenState]
"""Called in front of block i with the state that enters it."""

Words = Callable[[TokenState], TokenState]
"""Called with word embeddings before positions are added (prompt learning)."""


class Tower(nn.Module, ABC):
    """One encoder. Sub-classes wrap one family of one library.

    Attributes:
        width: Size of a token.
        depth: Number of blocks.
        out_dim: Size of a projected feature.
        token_editing: Whether tokens can be inserted between blocks; a CNN says False and adapters refuse it.
        checkpointing: Recompute blocks in the backward pass instead of storing their activations.
    """

    width: int
    depth: int
    out_dim: int
    token_editing: bool = True
    checkpointing: bool = False

    @abstractmethod
    def embed(self, inputs: Any, words: Words | None = None) -> TokenState:
        """Everything in front of the first block. `inputs` are pixels `[B, C, H, W]` or `TextInputs`."""

    @abstractmethod
    def block(self, index: int, state: TokenState) -> TokenState:
        """Run block `index` (from 0)."""

    @abstractmethod
    def norm(self, tokens: Tensor) -> Tensor:
        """The final normalisation, for any tokens `[..., width]`."""

    @abstractmethod
    def pool(self, state: TokenState) -> Tensor:
        """The normalised, pooled feature of a finished state, `[B, width]`. Inserted tokens are never averaged in."""

    @abstractmethod
    def project(self, pooled: Tensor) -> Tensor:
        """Into the space that both towers share, `[..., width] -> [..., out_dim]`."""

    @abstractmethod
    def lora_targets(self, parts: Collection[str]) -> list[str]:
        """Full names, inside the library's own model, of the layers called `parts` (of LORA_PARTS) here."""

    def run(self, state: TokenState, edit: Edit | None = None, start: int = 0, stop: int | None = None) -> TokenState:
        """The only block loop of the project: blocks `start` to `stop` (all), with `edit` in front of each."""
        recompute = self.checkpointing and torch.is_grad_enabled()
        for index in range(start, self.depth if stop is None else stop):
            if edit is not None:
                state = edit(index, state)
            state = self._checkpointed(index, state) if recompute else self.block(index, state)
        return state

    def forward(self, inputs: Any | TextInputs) -> Tensor:
        """The projected feature without any adapter, `[B, out_dim]`."""
        return self.project(self.pool(self.run(self.embed(inputs))))

    def _checkpointed(self, index: int, state: TokenState) -> TokenState:
        def tokens_of(tokens: Tensor) -> Tensor:
            return self.block(index, state.step(tokens)).tokens

        return state.step(checkpoint(tokens_of, state.tokens, use_reentrant=False))


LORA_PARTS = ("q", "k", "v", "o", "up", "down")
"""Names that `Tower.lora_targets` understands: attention query, key, value, output, and the two MLP layers."""
