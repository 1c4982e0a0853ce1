"""The sequence between two transformer blocks.

A tower turns its input into a `TokenState`, every block maps one state to the next, and adapters edit the state
in between. Everything that depends on the length of the sequence (padding, the pooled position, named spans)
moves with the tokens, so an adapter cannot forget to shift one of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenState:
    """Tokens on their way through a tower.

    Attributes:
        tokens: The sequence, `[B, L, D]`.
        keep: True where a token is real, False where it is padding, `[B, L]`; None when nothing is padded.
        causal: Whether a token may attend to later ones.
        readout: Position that is pooled, one per row, `[B]`; None when the tower pools otherwise.
        prefix: Number of leading special tokens (class token, registers, start of text). New tokens usually go
            right behind them: `state.insert(new, at=state.prefix, name=...)`.
        grid: Layout of the patch tokens, `(H, W)` or `(D, H, W)`.
        content: For texts, where the ids that came in are neither special nor padding, `[B, L of the ids]`; inserted
            tokens do not move it. None for images, and where the words of a text were changed.
        spans: Inserted tokens by name.
        shared: Number of leading tokens that are known to be the same in every row, at most up to the pooled one;
            what a causal tower makes of them is the same in every row too.
        parts: Number of consecutive rows that are parts of one input, as the slices of a volume are.
        notes: What an adapter writes down on the way, by its name; blocks pass it on and do not read it.
        own: What each row has behind `tokens`, while these are a single row for all (`towers.shortcuts`).
    """

    tokens: Tensor
    keep: Tensor | None = None
    causal: bool = False
    readout: Tensor | None = None
    prefix: int = 0
    grid: tuple[int, ...] | None = None
    content: Tensor | None = None
    spans: Mapping[str, slice] = field(default_factory=dict)
    shared: int = 0
    parts: int = 1
    notes: Mapping[str, Tensor] = field(default_factory=dict)
    own: TokenState | None = None
    _mask: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def length(self) -> int:
        """Number of tokens in a row, inserted ones included."""
        return self.tokens.shape[1]

    def step(self, tokens: Tensor) -> TokenState:
        """The same sequence after a block: new values `[B, L, D]`, same layout."""
        if tokens.shape[:2] != self.tokens.shape[:2]:
            raise ValueError(
                f"TokenState.step: a block turned {tuple(self.tokens.shape[:2])} tokens into "
                f"{tuple(tokens.shape[:2])}; use insert() to change the length"
            )
        return replace(self, tokens=tokens)

    def cast(self, dtype: torch.dtype) -> TokenState:
        """The same sequence in another number format."""
        return self if self.tokens.dtype == dtype else replace(self, tokens=self.tokens.to(dtype), _mask=None)

    def scatter(self, new: Tensor, at: Tensor) -> TokenState:
        """Put `new` (`[K, D]` or `[B, K, D]`) in front of another position in every row, `at` `[B]`.

        A span is one slice for all rows, so these tokens get none: they count as the sequence's own.
        """
        if self.spans:
            raise ValueError(f"TokenState.scatter: the spans {sorted(self.spans)} would lie elsewhere in every row")
        first, last = int(at.min()), int(at.max())
        if not self.prefix <= first <= last <= self.length:
            raise ValueError(
                f"TokenState.scatter: positions {first} to {last} are outside {self.prefix}..{self.length}, what lies "
                "behind the special tokens"
            )
        new = self._batched(new)
        count = new.shape[1]
        place = torch.arange(self.length + count, device=at.device)[None]
        behind = place - at[:, None]
        # Old and new tokens lie side by side, and every place picks one of them.
        index = torch.where(behind < 0, place, torch.where(behind < count, self.length + behind, place - count))
        tokens = torch.cat([self.tokens, new], dim=1)
        tokens = tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))
        keep = self.keep
        if keep is not None:
            keep = torch.cat([keep, keep.new_ones(keep.shape[0], count)], dim=1).gather(1, index)
        readout = self.readout
        if readout is not None:
            readout = torch.where(readout >= at, readout + count, readout)
        return replace(
            self,
            tokens=tokens,
            keep=keep,
            readout=readout,
            content=None,
            shared=min(self.shared, first),
            _mask=None,
        )

    def insert(self, new: Tensor, at: int, name: str) -> TokenState:
        """Put `new` (`[K, D]` or `[B, K, D]`) in front of position `at` and remember it as `spans[name]`."""
        if name in self.spans:
            raise ValueError(f"TokenState.insert: a span named {name!r} is there already; use overwrite()")
        if not 0 <= at <= self.length:
            raise ValueError(f"TokenState.insert: position {at} is outside a sequence of {self.length} tokens")
        shared = self.shared
        if at <= shared:
            shared = at if new.dim() == 3 else shared + new.shape[0]
        new = self._batched(new)
        count = new.shape[1]
        tokens = torch.cat([self.tokens[:, :at], new, self.tokens[:, at:]], dim=1)
        keep = self.keep
        if keep is not None:
            keep = torch.cat([keep[:, :at], keep.new_ones(keep.shape[0], count), keep[:, at:]], dim=1)
        readout = self.readout
        if readout is not None:
            readout = torch.where(readout >= at, readout + count, readout)
        spans = {known: _shifted(span, at, count) for known, span in self.spans.items()}
        spans[name] = slice(at, at + count)
        prefix = self.prefix + count if at < self.prefix else self.prefix
        return replace(
            self, tokens=tokens, keep=keep, readout=readout, prefix=prefix, spans=spans, shared=shared, _mask=None
        )

    def mark(self, at: int, count: int, name: str) -> TokenState:
        """Remember `count` tokens from position `at` as `spans[name]`, as if they had been inserted."""
        if name in self.spans:
            raise ValueError(f"TokenState.mark: a span named {name!r} is there already")
        if not 0 <= at <= at + count <= self.length:
            raise ValueError(
                f"TokenState.mark: {count} tokens from position {at} are outside a sequence of {self.length} tokens"
            )
        return replace(self, content=None, spans={**self.spans, name: slice(at, at + count)})

    def overwrite(self, new: Tensor, name: str) -> TokenState:
        """Replace the values of an inserted span by `new` (`[K, D]` or `[B, K, D]`)."""
        span = self._span(name)
        shared = min(self.shared, span.start) if new.dim() == 3 else self.shared
        new = self._batched(new)
        if new.shape[1] != span.stop - span.start:
            raise ValueError(
                f"TokenState.overwrite: span {name!r} holds {span.stop - span.start} tokens, got {new.shape[1]}"
            )
        tokens = torch.cat([self.tokens[:, : span.start], new, self.tokens[:, span.stop :]], dim=1)
        return replace(self, tokens=tokens, shared=shared)

    def take(self, name: str) -> Tensor:
        """The tokens of a span, `[B, K, D]`."""
        return self.tokens[:, self._span(name)]

    def original(self) -> TokenState:
        """The state without any inserted span: what pooling over all tokens should see."""
        if not self.spans:
            return self
        inside = torch.zeros(self.length, dtype=torch.bool)
        for span in self.spans.values():
            inside[span] = True
        index = (~inside).nonzero().squeeze(1).to(self.tokens.device)
        readout = self.readout
        if readout is not None:
            readout = readout - inside.to(readout.device).long().cumsum(0)[readout]
        prefix = int((~inside[: self.prefix]).sum())
        return replace(
            self,
            tokens=self.tokens.index_select(1, index),
            keep=None if self.keep is None else self.keep.index_select(1, index),
            readout=readout,
            prefix=prefix,
            spans={},
            shared=0,
            _mask=None,
        )

    def note(self, value: Tensor, name: str) -> TokenState:
        """Write down `value` as `notes[name]`."""
        return replace(self, notes={**self.notes, name: value})

    def patches(self) -> slice:
        """Where the patch tokens are: `prod(grid)` of them in a row, no special and no inserted ones."""
        if self.grid is None:
            raise RuntimeError("TokenState.patches: this state has no grid; texts and narrowed states have no patches")
        inside = torch.zeros(self.length, dtype=torch.bool)
        for span in self.spans.values():
            inside[span] = True
        own = (~inside).nonzero().squeeze(1)
        prefix = int((~inside[: self.prefix]).sum())
        found = own[prefix:]
        count = math.prod(self.grid)
        if len(found) != count or int(found[-1] - found[0]) != count - 1:
            raise RuntimeError(
                f"TokenState.patches: a grid of {self.grid} is {count} tokens in a row, this state has {len(found)}, "
                f"with the spans {sorted(self.spans)}"
            )
        return slice(int(found[0]), int(found[-1]) + 1)

    def whole(self, features: Tensor) -> Tensor:
        """One feature per input from one per row: the mean over its parts, `[B * parts, ...] -> [B, ...]`."""
        return features if self.parts == 1 else features.unflatten(0, (-1, self.parts)).mean(dim=1)

    def mask(self) -> Tensor | None:
        """One additive attention mask `[B or 1, 1, L, L]`, or None when every token sees every other.

        A padded row still sees itself: a softmax over nothing would be NaN, and NaN spreads through a value of
        weight zero.
        """
        if self.keep is None and not self.causal:
            return None
        if self._mask is None:
            visible = torch.ones(self.length, self.length, dtype=torch.bool, device=self.tokens.device)
            if self.causal:
                visible = visible.tril()
            visible = visible[None]
            if self.keep is not None:
                itself = torch.eye(self.length, dtype=torch.bool, device=self.tokens.device)
                visible = visible & (self.keep[:, None, :].bool() | itself)
            additive = torch.zeros(visible.shape, dtype=self.tokens.dtype, device=self.tokens.device)
            additive = additive.masked_fill(~visible, -torch.inf)[:, None]
            # The mask depends on the layout alone, which step() and overwrite() keep: compute it once per layout.
            object.__setattr__(self, "_mask", additive)
        return self._mask

    def _span(self, name: str) -> slice:
        if name not in self.spans:
            raise KeyError(f"TokenState has no span {name!r}; it has {sorted(self.spans) or 'none'}")
        return self.spans[name]

    def _batched(self, new: Tensor) -> Tensor:
        if new.dim() == 2:
            new = new.expand(self.tokens.shape[0], -1, -1)
        if new.dim() != 3 or new.shape[0] != self.tokens.shape[0] or new.shape[2] != self.tokens.shape[2]:
            raise ValueError(
                f"TokenState: tokens of shape {tuple(new.shape)} do not fit a sequence of shape "
                f"{tuple(self.tokens.shape)}; give [K, D] or [B, K, D]"
            )
        return new.to(self.tokens.dtype)


def _shifted(span: slice, at: int, count: int) -> slice:
    if span.start < at < span.stop:
        raise ValueError(f"TokenState.insert: position {at} lies inside the span {span.start}:{span.stop}")
    return slice(span.start + count, span.stop + count) if span.start >= at else span
