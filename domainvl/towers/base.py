"""A tower: an encoder of any library, seen as embed -> blocks -> pool -> project.

The library's own layers are called one by one, with their weights and names untouched. That is what lets an
adapter edit the tokens between two blocks, lets PEFT export LoRA weights that load without this package, and lets a
frozen prefix be computed once (`run(stop=k)`) and resumed from (`run(start=k)`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from domainvl.features import TextInputs
from domainvl.tokens import TokenState
from domainvl.towers.locals import own_tokens
from domainvl.towers.onednn import OneDnn, available
from domainvl.towers.opened import Opened
from domainvl.towers.shortcuts import forked, run_forked, run_last, run_last_forked, together

Edit = Callable[[int, TokenState], TokenState]
"""Called in front of block i with the state that enters it."""

Words = Callable[[TokenState, TextInputs], TokenState]
"""Called with word embeddings, before positions are added, and the texts that they are of (prompt learning)."""


class Tower(nn.Module, ABC):
    """One encoder. Sub-classes wrap one family of one library.

    Attributes:
        width: Size of a token.
        depth: Number of blocks.
        out_dim: Size of a projected feature.
        token_editing: Whether tokens can be inserted between blocks; a CNN says False and adapters refuse it.
        has_locals: Whether `locals` gives features of places and words; CT-ViT, which flattens a slice, does not.
        checkpointing: Recompute blocks in the backward pass instead of storing their activations.
        block_type: Number format of the blocks when it is not fp32 (`cast_blocks`).
        onednn: Run frozen linear layers on the CPU by oneDNN.
    """

    width: int
    depth: int
    out_dim: int
    token_editing: bool = True
    has_locals: bool = True
    checkpointing: bool = False
    block_type: torch.dtype | None = None
    onednn: bool = False

    @abstractmethod
    def embed(self, inputs: Any, words: Words | None = None) -> TokenState:
        """Everything in front of the first block. `inputs` are pixels `[B, C, H, W]` or `TextInputs`."""

    def enter(self, tokens: Tensor) -> Tensor:
        """What `embed` does to tokens `[..., width]` behind the positions: a layer norm in CLIP, nothing elsewhere.

        It works token by token, so tokens that join later and went through it equal tokens that were there before.
        """
        return tokens

    @abstractmethod
    def block(self, index: int, state: TokenState) -> TokenState:
        """Run block `index` (from 0)."""

    @abstractmethod
    def norm(self, tokens: Tensor) -> Tensor:
        """The final normalisation, for any tokens `[..., width]`."""

    @abstractmethod
    def pool(self, state: TokenState) -> Tensor:
        """The normalised, pooled feature of a finished state, `[B, width]`. Inserted tokens are never averaged in."""

    def alone(self, tokens: Tensor) -> Tensor:
        """What `pool` says of every token by itself, `[B, L, D]`: normalised, and ready for `project`.

        Towers that pool by attention, or apply layers to what they pooled, override it.
        """
        return self.norm(tokens)

    def locals(self, state: TokenState) -> tuple[Tensor, Tensor]:
        """Local features of a finished state in the shared space, `[B, L, out_dim]`, and which are real, `[B, L]`.

        Patches of an image, laid out as `local_grid` says; of a text as many columns as its ids have, real where an id
        is neither special nor padding.
        """
        if not self.has_locals:
            raise TypeError(
                f"{type(self).__name__} gives no local features; use objectives that read pooled features, or another "
                "tower"
            )
        tokens, mask = own_tokens(state)
        return self.project(self.alone(tokens)), mask

    def local_grid(self, state: TokenState) -> tuple[int, ...] | None:
        """How the patches that `locals` gives lie, (H, W) or (D, H, W); None for texts."""
        return state.grid

    @abstractmethod
    def project(self, pooled: Tensor) -> Tensor:
        """Into the space that both towers share, `[..., width] -> [..., out_dim]`."""

    @abstractmethod
    def lora_targets(self, parts: Collection[str]) -> list[str]:
        """Full names, inside the library's own model, of the layers called `parts` (of LORA_PARTS) here."""

    @property
    def pooled_width(self) -> int:
        """Size of a pooled feature: that of a token, but in a few models."""
        return self.width

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The library's own blocks, in order; nothing where there are none."""
        return ()

    def cast_blocks(self, dtype: torch.dtype) -> None:
        """Keep and run the frozen blocks in another number format."""
        if not self.layers:
            raise TypeError(f"{type(self).__name__} has no blocks that could run in {dtype}; use fp32")
        for layer in self.layers:
            layer.to(dtype)
        self.block_type = dtype

    def opened(self, index: int) -> Opened | None:
        """Block `index` in two halves; None where it cannot be opened, and shortcuts fall back to `block`."""
        return None

    def run(
        self,
        state: TokenState,
        edit: Edit | None = None,
        start: int = 0,
        stop: int | None = None,
        *,
        rows: bool = False,
        reads: Collection[str] | None = None,
    ) -> TokenState:
        """The only block loop of the project.

        Args:
            state: What enters block `start`.
            edit: Called in front of every block.
            start: First block.
            stop: Block in front of which it ends; None for all.
            rows: Run tokens that all rows begin with once. `edit` then sees these tokens alone, as a single row.
            reads: Spans that are read behind the last block; the state that comes back holds the pooled token and
                these alone. None keeps all tokens.
        """
        stop = self.depth if stop is None else stop
        if self.block_type is not None and start < stop:
            state = state.cast(self.block_type)
        if rows and not self._recomputes and all(self.opened(index) for index in range(start, stop)):
            state = forked(state)
        with OneDnn() if self.onednn and available() and not self._recomputes else nullcontext():
            for index in range(start, stop):
                if edit is not None:
                    state = edit(index, state)
                state = self._through(index, state, reads if index == self.depth - 1 else None)
        state = together(state)
        # Final norm, pooling and projection stay in fp32, and so does what an adapter makes of the tokens.
        return state.cast(torch.float32) if self.block_type is not None and stop == self.depth else state

    def forward(self, inputs: Any | TextInputs) -> Tensor:
        """The projected feature without any adapter, `[B, out_dim]`."""
        return self.project(self.pool(self.run(self.embed(inputs))))

    @property
    def _recomputes(self) -> bool:
        return self.checkpointing and torch.is_grad_enabled()

    def _through(self, index: int, state: TokenState, reads: Collection[str] | None) -> TokenState:
        if self._recomputes:
            return self._checkpointed(index, state)
        whole = state.own is None
        if whole and (reads is None or state.readout is None):
            return self.block(index, state)
        block = self.opened(index)
        if block is None:
            return self.block(index, state)
        if reads is None:
            return run_forked(block, state)
        return run_last(block, together(state), reads) if whole or reads else run_last_forked(block, state)

    def _checkpointed(self, index: int, state: TokenState) -> TokenState:
        def tokens_of(tokens: Tensor) -> Tensor:
            return self.block(index, state.step(tokens)).tokens

        return state.step(checkpoint(tokens_of, state.tokens, use_reentrant=False))


LORA_PARTS = ("q", "k", "v", "o", "up", "down")
"""Names that `Tower.lora_targets` understands: attention query, key, value, output, and the two MLP layers."""
