"""Features of image-report pairs, in every role that somebody asks for.

A part is an image or a text in one of the views that a batch holds; it goes through its tower once per role. What an
adapter reads besides (`image@rep.pooled`) comes with the part that it belongs to.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from domainvl.adapters.base import Adapter, Side
from domainvl.backbones.base import Backbone
from domainvl.features import Batch, FeatureKey, Features, TextInputs
from domainvl.speed import Speed
from domainvl.tasks.class_scores import PLAIN_ADAPTER
from domainvl.tasks.text_pass import Said, TextPass
from domainvl.tokens import TokenState
from domainvl.towers.attention import attention_of
from domainvl.towers.base import Tower
from domainvl.towers.locals import pool_words

LOCAL = frozenset({"tokens", "mask", "grid", "sentences"})
"""Streams that want every token of the finished state."""


@dataclass(frozen=True, order=True)
class Part:
    """One input of a tower: `image`, `image@second`, `text`, `text@caption`."""

    side: Side
    view: str = ""

    @property
    def key(self) -> str:
        """Where a batch has it, and what its features begin with."""
        return f"{self.side}@{self.view}" if self.view else self.side


class PairPass:
    """Both towers over the pairs of a batch.

    Args:
        backbone: The model.
        adapter: What is learned.
        speed: What may be skipped.
        wanted: Feature keys that somebody reads.
        views: Names of the views that batches hold besides the plain one: `image@second`, `text@caption`.
        chunk: Images, or texts, that go through a tower at once. More are recomputed in the backward pass, chunk by
            chunk with the same random numbers, so that memory does not grow with the batch (GradCache, Gao et al.
            2021). None for all at once.
        texts: What the text tower says, remembered; for adapters that leave it alone (`leaves_texts_alone`).
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter | None,
        speed: Speed,
        wanted: Collection[str],
        views: Collection[str] = (),
        chunk: int | None = None,
        texts: TextPass | None = None,
    ) -> None:
        self.backbone, self.adapter, self.speed, self.chunk = backbone, adapter or PLAIN_ADAPTER, speed, chunk
        self._wanted = [FeatureKey.parse(key) for key in sorted(wanted)]
        self._views = frozenset(views)
        self._texts = texts

    def roles(self) -> set[str]:
        """Roles that are asked for."""
        return {key.role for key in self._wanted}

    def views(self, role: str) -> set[str]:
        """Batch keys that a role reads."""
        return {part.key for part in self.parts(role)}

    def parts(self, role: str) -> dict[Part, frozenset[str]]:
        """What goes through a tower for a role, and which streams are wanted of all of its tokens."""
        found: dict[Part, frozenset[str]] = {}
        for key in self._wanted:
            if key.role != role or key.source not in ("image", "text"):
                continue
            side: Side = "image" if key.source == "image" else "text"
            known = not key.view or f"{key.source}@{key.view}" in self._views
            part = Part(side, key.view if known else "")
            streams = {key.stream} & (LOCAL | {"attention"}) if known else ()
            found[part] = found.get(part, frozenset()).union(streams)
        return found

    def student(self, batch: Batch) -> Features:
        """Features of the adapted model, with gradients."""
        return self._role("", batch, self.adapter)

    @torch.no_grad()
    def frozen(self, batch: Batch) -> Features:
        """Features of the untouched model."""
        with self.adapter.off():
            return self._role("frozen", batch, PLAIN_ADAPTER)

    @torch.no_grad()
    def teacher(self, batch: Batch) -> Features:
        """Features of the adapted model as it is now, under the role `ema`."""
        return self._role("ema", batch, self.adapter)

    def encode(
        self, adapter: Adapter, side: Side, inputs: Any, tokens: bool = False, attention: bool = False
    ) -> Features:
        """Features of pixels `[B, 3, S, S]` or what `inputs` gives of texts.

        Args:
            adapter: Whose features.
            side: Which tower.
            inputs: What it takes.
            tokens: Local features too.
            attention: And how much attention patches get, where the tower knows.
        """
        if isinstance(inputs, Said):
            features = adapter.readout(side, inputs.tower, inputs.state)
            return features | _locals(adapter, side, inputs.tower, inputs.state, inputs) if tokens else features
        tower = self.backbone.image if side == "image" else self.backbone.text
        if not tokens:
            return adapter.encode(side, tower, inputs, self.speed)
        # What only locals read must not be skipped in the last block.
        first, last = adapter.first_block(side, tower), tower.depth - 1
        if attention and first > last:
            # The last block is asked what it attends to, so it is no part of what is constant.
            prefix = tower.run(tower.embed(inputs), stop=last)
        else:
            prefix = adapter.prefix(side, tower, inputs, replace(self.speed, unread=False))
        entered: dict[int, TokenState] = {}

        def edit(index: int, state: TokenState) -> TokenState:
            entered[index] = state if index < first else adapter.edit(side, index, state)
            return entered[index]

        state = tower.run(prefix, edit=edit, start=min(first, last) if attention else first)
        features = adapter.readout(side, tower, state) | _locals(adapter, side, tower, state, inputs)
        shares = attention_of(tower, entered[last]) if attention else None
        return features if shares is None else features | {f"{side}.attention": shares}

    def _role(self, role: str, batch: Batch, adapter: Adapter) -> Features:
        features: Features = {}
        for part, streams in sorted(self.parts(role).items()):
            tokens, attention = bool(streams & LOCAL), part.side == "image" and "attention" in streams
            made = self._chunks(adapter, part.side, self.inputs(part, batch, tokens), tokens, attention)
            for name, value in made.items():
                key = FeatureKey.parse(name)
                if not part.view:
                    features[str(replace(key, role=role))] = value
                elif not key.view:
                    features[str(replace(key, role=role, view=part.view))] = value
        return features

    def inputs(self, part: Part, batch: Batch, tokens: bool = False) -> Any:
        """What the tower takes."""
        if part.side == "image":
            return batch[part.key]
        texts: Sequence[str] = batch[part.key]
        if self._texts is not None:
            return self._texts(texts)
        tokenized = self.backbone.structured(texts) if tokens else self.backbone.tokenize(texts)
        return tokenized.to(self.backbone.logit_scale.device)

    def _chunks(self, adapter: Adapter, side: Side, inputs: Any, tokens: bool, attention: bool) -> Features:
        count = len(inputs)
        if self.chunk is None or count <= self.chunk:
            return self.encode(adapter, side, inputs, tokens, attention)
        rows = [slice(start, start + self.chunk) for start in range(0, count, self.chunk)]
        if not torch.is_grad_enabled():
            return _joined([self.encode(adapter, side, _rows(inputs, row), tokens, attention) for row in rows])
        encode = partial(checkpoint, self.encode, adapter, side, use_reentrant=False)
        return _joined([encode(_rows(inputs, row), tokens, attention) for row in rows])


def _locals(adapter: Adapter, side: Side, tower: Tower, state: TokenState, inputs: Any) -> Features:
    """Local features of a finished state; of texts words."""
    local, mask = adapter.locals(side, tower, state)
    features: Features = {}
    if isinstance(inputs, (TextInputs, Said)) and inputs.words is not None and inputs.sentences is not None:
        local, mask, features["text.sentences"] = pool_words(local, inputs.words, inputs.sentences)
    features |= {f"{side}.tokens": local, f"{side}.mask": mask}
    if state.grid is not None:
        features[f"{side}.grid"] = torch.tensor(state.grid, device=local.device)
    return features


def _rows(inputs: Any, rows: slice) -> Any:
    return inputs.rows(rows) if isinstance(inputs, (TextInputs, Said)) else inputs[rows]


def _joined(parts: Sequence[Features]) -> Features:
    """Chunks one after the other; texts of a chunk may have fewer words than those of another."""
    return {key: _stacked([part[key] for part in parts]) for key in parts[0]}


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    if parts[0].dim() == 1:
        return parts[0]
    if parts[0].dim() == 2 and parts[0].is_floating_point():
        return torch.cat(list(parts))
    length = max(part.shape[1] for part in parts)
    padded = []
    for part in parts:
        fill = -1 if part.dtype == torch.long else 0
        missing = part.new_full((part.shape[0], length - part.shape[1], *part.shape[2:]), fill)
        padded.append(torch.cat([part, missing], dim=1))
    return torch.cat(padded)
