"""Two exact shortcuts through a tower's blocks: rows that begin alike, and tokens that nobody reads.

*Rows.* In a causal tower a token sees what is in front of it and nothing else. Prompts of many classes begin alike, so
their common beginning, the trunk, runs as one row, and its keys and values go to the own tokens of all rows.

*Unread.* Behind the last block only some tokens are read. All others are needed as keys and values there, and their
queries, output projection and MLP are not computed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from domainvl.tokens import TokenState
from domainvl.towers.opened import Opened, joined


def forked(state: TokenState) -> TokenState:
    """The trunk as one row, `[1, S, D]`, with `own` `[B, L - S, D]`; the state itself where nothing is gained."""
    cut = state.shared
    if not state.causal or cut < 1 or state.tokens.shape[0] < 2 or state.readout is None:
        return state
    if any(span.start < cut < span.stop for span in state.spans.values()):
        return state
    own = replace(
        state,
        tokens=state.tokens[:, cut:],
        keep=None if state.keep is None else state.keep[:, cut:],
        readout=state.readout - cut,
        prefix=0,
        spans={name: _moved(span, -cut) for name, span in state.spans.items() if span.start >= cut},
        shared=0,
        _mask=None,
    )
    front = {name: span for name, span in state.spans.items() if span.stop <= cut}
    trunk = state.tokens[:1, :cut]
    return replace(state, tokens=trunk, keep=None, readout=None, spans=front, own=own, _mask=None)


def together(state: TokenState) -> TokenState:
    """The whole rows again: the inverse of `forked`."""
    own, cut = state.own, state.length
    if own is None:
        return state
    if own.readout is None:
        raise RuntimeError("together: the rows lost the position that is pooled")
    rows = own.tokens.shape[0]
    return replace(
        state,
        tokens=torch.cat([state.tokens.expand(rows, -1, -1), own.tokens], dim=1),
        keep=None if own.keep is None else F.pad(own.keep, (cut, 0), value=True),
        readout=own.readout + cut,
        spans={**state.spans, **{name: _moved(span, cut) for name, span in own.spans.items()}},
        shared=cut,
        own=None,
        _mask=None,
    )


def run_forked(block: Opened, state: TokenState) -> TokenState:
    """One block, for the trunk once and for the rows' own tokens, which see it."""
    own = _own(state)
    front, back = block.enter(state.tokens), block.enter(own.tokens)
    seen = block.see(front)
    after = block.read(own.tokens, back, joined(seen, block.see(back)), _own_mask(state.length, own))
    return replace(state.step(block.read(state.tokens, front, seen, state.mask())), own=own.step(after))


def run_last_forked(block: Opened, state: TokenState) -> TokenState:
    """The last block for the pooled token of every row alone, `[B, 1, D]`."""
    own = _own(state)
    back = block.enter(own.tokens)
    seen = joined(block.see(block.enter(state.tokens)), block.see(back))
    index = _read_positions(own, ())
    mask = rows_of(_own_mask(state.length, own), index)
    return _narrowed(own, (), block.read(picked(own.tokens, index), picked(back, index), seen, mask))


def run_last(block: Opened, state: TokenState, reads: Collection[str]) -> TokenState:
    """The last block for the pooled token and the spans in `reads` alone, in this order."""
    normed = block.enter(state.tokens)
    index = _read_positions(state, reads)
    mask = rows_of(state.mask(), index)
    tokens = block.read_few(picked(state.tokens, index), picked(normed, index), normed, mask)
    return _narrowed(state, reads, tokens)


def _own(state: TokenState) -> TokenState:
    if state.own is None:
        raise RuntimeError("_own: this state is not forked")
    return state.own


def _own_mask(trunk: int, own: TokenState) -> Tensor | None:
    """Own tokens see the trunk whole and each other as far as `own` lets them, `[B or 1, 1, T, S + T]`."""
    mask = own.mask()
    return None if mask is None else F.pad(mask, (trunk, 0))


def _read_positions(state: TokenState, reads: Collection[str]) -> Tensor:
    """Positions that are read, `[B, Q]`: the pooled one, then the spans."""
    if state.readout is None:
        raise RuntimeError("_read_positions: this tower pools over all of its tokens")
    rows, device = state.tokens.shape[0], state.tokens.device
    spans = [torch.arange(span.start, span.stop, device=device) for span in map(state.spans.__getitem__, reads)]
    return torch.cat([state.readout[:, None], *(span.expand(rows, -1) for span in spans)], dim=1)


def picked(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens at positions `[B, Q]`, `[B, Q, D]`."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def rows_of(mask: Tensor | None, index: Tensor) -> Tensor | None:
    """What the tokens at positions `[B, Q]` may see, `[B, 1, Q, L]`."""
    if mask is None:
        return None
    mask = mask.expand(index.shape[0], -1, -1, -1)
    return mask.gather(2, index[:, None, :, None].expand(-1, 1, -1, mask.shape[-1]))


def _narrowed(state: TokenState, reads: Collection[str], tokens: Tensor) -> TokenState:
    """A finished state that holds the read tokens alone."""
    spans, at = {}, 1
    for name in reads:
        count = state.spans[name].stop - state.spans[name].start
        spans[name] = slice(at, at + count)
        at += count
    readout = torch.zeros(tokens.shape[0], dtype=torch.long, device=tokens.device)
    return TokenState(tokens, readout=readout, prefix=1, spans=spans, parts=state.parts, notes=state.notes)


def _moved(span: slice, by: int) -> slice:
    return slice(span.start + by, span.stop + by)
